// Embedded databases that are there at once: to make one takes some seconds of processor time, a copy next to nothing.

import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { mkdtemp, rename, rm } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"
import { PGlite } from "@electric-sql/pglite"
import { runDirectory, scratchDirectory } from "./scratch.ts"

/** An empty database, made by whoever first needs one in this run. */
const template = async (): Promise<string> => {
  const path = join(runDirectory(), "embedded")
  if (existsSync(path)) return path
  const own = join(await mkdtemp(join(scratchDirectory(), "embedded-")), "pglite")
  await (await PGlite.create(own)).close()
  // Two may have made it at the same time: the first one stays.
  await rename(own, path).catch((error) => {
    if (!existsSync(path)) throw error
  })
  return path
}

/** A new `DATA_DIR` with an empty database, which nobody has migrated; gone by `drop`, or with the run. */
export const makeDataDir = async (): Promise<{
  readonly path: string
  readonly drop: () => Promise<void>
}> => {
  const from = await template()
  const path = await mkdtemp(join(scratchDirectory(), "data-"))
  await promisify(execFile)("cp", ["-r", from, join(path, "pglite")])
  return { path, drop: () => rm(path, { recursive: true, force: true }) }
}
