// A directory for whatever this process' tests, and the services they start, leave on disk.

import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const prefix = "switchhook-tests-"

// The directory of the whole run, inherited by the processes that it ends without asking them.
const ofRun = "SWITCHHOOK_TEST_RUN"

let made: string | undefined

/** That of all processes of a run. */
export const runDirectory = (): string => process.env[ofRun] ?? scratchDirectory()

/** The same one each time; removed when the process ends, or the run. */
export const scratchDirectory = (): string => {
  if (made !== undefined) return made
  const directory = mkdtempSync(join(process.env[ofRun] ?? tmpdir(), prefix))
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }))
  made = directory
  return directory
}

/** Set up once for a whole test run. */
export default () => {
  const directory = mkdtempSync(join(tmpdir(), prefix))
  process.env[ofRun] = directory
  return () => rmSync(directory, { recursive: true, force: true })
}
