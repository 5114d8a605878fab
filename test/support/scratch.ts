// A directory for whatever this process' tests, and the services they start, leave on disk.

import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

let made: string | undefined

/** The same one each time; removed when the process ends. */
export const scratchDirectory = (): string => {
  if (made !== undefined) return made
  const directory = mkdtempSync(join(tmpdir(), "switchhook-tests-"))
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }))
  made = directory
  return directory
}
