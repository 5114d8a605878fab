// What is found: whether something is as it should be, why that matters, and what mends it.

export type Severity = "ok" | "warning" | "error"

/** One thing that was looked at. */
export interface Finding {
  /** In a word or two, what it is about. */
  readonly about: string
  readonly severity: Severity
  readonly what: string
  /** Why it matters; empty where all is well. */
  readonly why: string
  /** The command or the setting that mends it; empty where all is well. */
  readonly fix: string
}

/** What goes with anything but an ok. */
export interface Remedy {
  readonly why: string
  readonly fix: string
}

/** Makes findings about one thing. */
export const findingsAbout = (about: string) => ({
  ok: (what: string): Finding => ({ about, severity: "ok", what, why: "", fix: "" }),
  warning: (what: string, { fix, why }: Remedy): Finding => ({ about, severity: "warning", what, why, fix }),
  error: (what: string, { fix, why }: Remedy): Finding => ({ about, severity: "error", what, why, fix }),
})
