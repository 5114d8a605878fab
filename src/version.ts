// Which build this is.

import { readFileSync } from "node:fs"

const read = () => {
  const parsed: unknown = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))
  return (parsed as { version: string }).version
}

/** The version in package.json. */
export const version = read()

/** `node 24.21.0` or `deno 2.9.6`. */
export const runtime =
  process.versions["deno"] === undefined
    ? `node ${process.versions.node}`
    : `deno ${process.versions["deno"]}`
