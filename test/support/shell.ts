// A shell that somebody has open: what is pasted into it runs there, one block after the other.

import { spawn } from "node:child_process"
import { randomUUID } from "node:crypto"
import type { Writable } from "node:stream"

export interface Pasted {
  /** Everything it printed, on either stream. */
  readonly output: string
  /** The exit code of its last command. */
  readonly code: number
}

export interface Shell {
  readonly paste: (block: string) => Promise<Pasted>
  /** Ends it, with everything that runs in its background. */
  readonly close: () => Promise<void>
}

// Blocks do not come on standard input, which the commands in them share. Jobs are process groups, as on a terminal;
// what is left of one may outlive its first process, which is all that bash knows of. No IFS for `read` alone: a
// signal that comes meanwhile would leave it to the trap.
const loop = `
  exec 2>&1
  set -m
  groups_now() { jobs -p | sed 's/^/-/'; }
  trap 'kill -KILL -- $groups $(groups_now) 2>/dev/null' EXIT
  while read -r -d "" -u 3 block; do
    eval "$block"
    printf '\n%s %s\n' "$MARK" "$?"
    groups="$groups $(groups_now)"
  done`

/** Starts bash with `env` as its whole environment. */
export const openShell = (cwd: string, env: Record<string, string | undefined>): Shell => {
  const mark = randomUUID()
  const bash = spawn("bash", ["-c", loop], {
    cwd,
    env: { ...env, MARK: mark },
    stdio: ["ignore", "pipe", "inherit", "pipe"],
  })
  const blocks = bash.stdio[3] as Writable
  blocks.on("error", () => {})
  const ended = new Promise<void>((resolve) => bash.once("exit", () => resolve()))
  let output = ""
  let onOutput = () => {}
  bash.stdout!.setEncoding("utf8").on("data", (text: string) => {
    output += text
    onOutput()
  })
  const end = new RegExp(`\n${mark} (\\d+)\n`)
  return {
    paste: (block) =>
      new Promise((resolve, reject) => {
        ended.then(() => reject(new Error(`the shell ended:\n${output}`)))
        output = ""
        onOutput = () => {
          const found = end.exec(output)
          if (found !== null) resolve({ output: output.slice(0, found.index), code: Number(found[1]) })
        }
        blocks.write(`${block}\0`)
      }),
    close: async () => {
      bash.kill("SIGTERM")
      await ended
    },
  }
}
