// The Chromium of the machine, without a window.

import { accessSync, constants } from "node:fs"
import { delimiter, join } from "node:path"
import { type Browser, chromium } from "playwright-core"

const names = ["chromium", "chromium-browser", "google-chrome"]

const isExecutable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** What `CHROMIUM` names, else the first of the usual names on the `PATH`. */
const findChromium = (): string => {
  const named = process.env["CHROMIUM"] ?? ""
  if (named !== "") {
    if (isExecutable(named)) return named
    throw new Error(`CHROMIUM is ${named}, which is no program that can be run`)
  }
  const directories = (process.env["PATH"] ?? "").split(delimiter).filter((directory) => directory !== "")
  const found = names
    .flatMap((name) => directories.map((directory) => join(directory, name)))
    .find(isExecutable)
  if (found !== undefined) return found
  throw new Error(
    `No Chromium: none of ${names.join(", ")} is on the PATH. Install one (Debian: apt install chromium), or name it in CHROMIUM`,
  )
}

/** Starts it, knowing no host but the loopback; in its sandbox, which it has not got for root. */
export const launchChromium = (): Promise<Browser> =>
  chromium.launch({
    executablePath: findChromium(),
    chromiumSandbox: process.getuid?.() !== 0,
    args: ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
  })
