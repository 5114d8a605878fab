// Where the pages of an SQLite file part its rows, read without SQLite: what it needs to go on behind a broken one.

import { readSync } from "node:fs"

/** A file of pages, or its log, in which every page has a header of its own (`sqlite.org/fileformat2.html`, 4.1). */
const plain = { header: 0, before: 0 }
const log = { header: 32, before: 24 }

/** A page that leads to others (1.6): its kind, how many cells it has, and where each of them is. */
const interior = 5
const cellCountAt = 3
const cellPointersAt = 12
const childBytes = 4

/** A number of one to nine bytes, seven bits of it in each but a ninth. Not a safe integer where it is damaged. */
const varint = (page: Buffer, at: number): number => {
  let value = 0
  for (let n = at; n < at + 8; n++) {
    const byte = page[n] ?? 0
    value = value * 128 + (byte & 0x7f)
    if (byte < 0x80) return value
  }
  return value * 256 + (page[at + 8] ?? 0)
}

function* lastIds(fd: number, pageSize: number, { header, before }: typeof plain): Generator<number> {
  const page = Buffer.alloc(pageSize)
  for (let at = header + before; readSync(fd, page, 0, pageSize, at) === pageSize; at += before + pageSize) {
    if (page[0] !== interior) continue
    const cells = Math.min(page.readUInt16BE(cellCountAt), (pageSize - cellPointersAt) / 2)
    for (let n = 0; n < cells; n++) {
      const id = varint(page, page.readUInt16BE(cellPointersAt + 2 * n) + childBytes)
      if (Number.isSafeInteger(id)) yield id
    }
  }
}

/**
 * In order, the ids with which a page of rows may end, as the pages above it have it: those of now, and some that
 * were, since pages without use are read, too. `fd` is the file; `logFd` its log, where there is one. Throws what
 * reading throws.
 */
export const idsThatEndPages = (fd: number, logFd: number | undefined, pageSize: number) => {
  const ids = new Set(lastIds(fd, pageSize, plain))
  if (logFd !== undefined) for (const id of lastIds(logFd, pageSize, log)) ids.add(id)
  return [...ids].sort((one, other) => one - other)
}
