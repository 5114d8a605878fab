// One file of the journal: an SQLite database that belongs to whoever has it open, and to nobody after a kill -9.

import { close, closeSync, existsSync, openSync, renameSync, rmSync } from "node:fs"
import type { DatabaseSync } from "node:sqlite"
import { pathToFileURL } from "node:url"
import { crc32 } from "node:zlib"
import { Predicate } from "effect"
import { idsThatEndPages } from "./journal-pages.ts"

type Sqlite = typeof import("node:sqlite")

/** What a file keeps of a record. Its id says when it came, and that a claim comes before every story. */
export interface Row {
  readonly id: number
  readonly crc: number
  readonly head: string
  readonly body: string
}

/** Any of its methods throws what SQLite throws: see `isDamage`. */
export interface JournalFile {
  readonly path: string
  /** Up to `limit` rows with a greater id, in its order. */
  readonly rows: (after: number, limit: number) => ReadonlyArray<Row>
  readonly row: (id: number) => Row | undefined
  /** The row with the smallest id from this one on. */
  readonly firstFrom: (id: number) => Row | undefined
  readonly insert: (id: number, head: string, body: string) => void
  /** Of a row that was found. */
  readonly remove: (id: number) => void
  /** Takes a row out of the order and keeps it in the table `damaged`, whatever is in it. */
  readonly setAside: (id: number, why: string) => void
  /** How many stories this file has given up. */
  readonly dropped: () => number
  readonly setDropped: (count: number) => void
  /** All of it or, where it throws, nothing. */
  readonly together: (work: () => void) => void
  /** Every row that can still be read, in order; never throws. */
  readonly salvage: () => Generator<Row>
  /** Lets go of it; it stays for the next one who looks. */
  readonly close: () => void
  /** Lets go of it for good. Where something damaged is in it, it stays under another name. */
  readonly retire: () => void
}

/** The file has an owner who lives, or was taken away by its last one. */
export class FileTaken extends Error {}

const layout = 1

const schema = `
  BEGIN;
  CREATE TABLE records (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, head TEXT NOT NULL, body TEXT NOT NULL);
  CREATE TABLE damaged (id INTEGER, why TEXT, at TEXT, crc, head, body);
  CREATE TABLE dropped (count INTEGER NOT NULL);
  INSERT INTO dropped VALUES (0);
  PRAGMA user_version = ${layout};
  COMMIT`

/** Over everything that a record is. */
export const checksum = (id: number, head: string, body: string): number =>
  crc32(body, crc32(`${id} ${head}`))

// SQLite's number where the driver gives one; Deno's leaves it out in places.
const codes = [
  [5, /database is locked/],
  [11, /malformed/],
  [26, /not a database/],
] as const
const codeOf = (error: unknown) => {
  if (!(error instanceof Error)) return 0
  if (Predicate.hasProperty(error, "errcode") && typeof error.errcode === "number")
    return error.errcode & 0xff
  return codes.find(([, words]) => words.test(error.message))?.[0] ?? 0
}

const isLocked = (error: unknown) => codeOf(error) === 5

/** True where the file itself is broken, rather than the disk full or away. */
export const isDamage = (error: unknown): boolean =>
  [11, 26].includes(codeOf(error)) ||
  // A number that no record of ours has.
  (Predicate.hasProperty(error, "code") && error.code === "ERR_OUT_OF_RANGE")

/** Damage that SQLite itself has not noticed. */
export const brokenFile = (why: string): Error => new Error(`malformed: ${why}`)

/** Rows as they were found, of which each has a greater id than the one before: a broken page may lead back. */
const inOrder = (rows: ReadonlyArray<Row>, after: number): ReadonlyArray<Row> => {
  let last = after
  for (const { id } of rows) {
    if (!(id > last)) throw brokenFile("its records are not in order")
    last = id
  }
  return rows
}

const walOf = (path: string) => `${path}-wal`

/** Renames a file that is of no more use, for whoever wants to look at it; returns its new name. */
export const moveAside = (path: string): string => {
  const aside = `${path}.damaged-${new Date().toISOString().replaceAll(":", "-")}`
  renameSync(path, aside)
  if (existsSync(walOf(path))) renameSync(walOf(path), walOf(aside))
  return aside
}

/**
 * Opens a file that exists, and owns it from here on.
 * Throws `FileTaken`, or what SQLite throws.
 */
export const openJournalFile = (sqlite: Sqlite, path: string): JournalFile => {
  // `rw` never creates: a name that was removed stays away, so that nobody writes into a file without a name.
  const db = new sqlite.DatabaseSync(`${pathToFileURL(path).href}?mode=rw`)
  try {
    return takeOver(db, path)
  } catch (error) {
    db.close()
    throw isLocked(error) ? new FileTaken(path) : error
  }
}

const takeOver = (db: DatabaseSync, path: string): JournalFile => {
  // The exclusive lock is the kernel's, and goes with its process. Without fsync a record survives its process, not
  // the machine; with it, every thousandth page would hold up the calls for as long as the disk likes.
  db.exec(
    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cell_size_check = ON",
  )
  const version = db.prepare("PRAGMA user_version").get()?.["user_version"]
  if (version !== 0 && version !== layout) throw new Error(`made by another version (${version})`)
  if (version === 0) db.exec(schema)
  // Its last owner may have removed it between our opening and our lock.
  if (!existsSync(path)) throw new FileTaken(path)

  const columns = "SELECT id, crc, head, body FROM records"
  const next = db.prepare(`${columns} WHERE id > ? ORDER BY id LIMIT ?`)
  const from = db.prepare(`${columns} WHERE id >= ? ORDER BY id LIMIT 1`)
  const one = db.prepare(`${columns} WHERE id = ?`)
  const put = db.prepare("INSERT INTO records (id, crc, head, body) VALUES (?, ?, ?, ?)")
  const drop = db.prepare("DELETE FROM records WHERE id = ?")
  const copyAside = db.prepare(
    "INSERT INTO damaged SELECT id, ?, datetime('now'), crc, head, body FROM records WHERE id = ?",
  )
  const droppedCount = db.prepare("SELECT count FROM dropped")
  const setDropped = db.prepare("UPDATE dropped SET count = ?")
  const anyDamaged = db.prepare("SELECT 1 FROM damaged LIMIT 1")

  const rowsAfter = (after: number, limit: number) =>
    inOrder(next.all(after, limit) as unknown as ReadonlyArray<Row>, after)
  const firstFrom = (id: number) => inOrder(from.all(id) as unknown as ReadonlyArray<Row>, id - 1)[0]
  const remove = (id: number) => {
    if (Number(drop.run(id).changes) === 0) throw brokenFile("a record is not where it was found")
  }
  const together = (work: () => void) => {
    db.exec("BEGIN")
    try {
      work()
      db.exec("COMMIT")
    } catch (error) {
      if (db.isTransaction) db.exec("ROLLBACK")
      throw error
    }
  }
  const attempt = (ask: () => Row | undefined) => {
    try {
      return { row: ask() }
    } catch {
      return undefined
    }
  }
  // Held until the file is let go of: whoever closes a file loses the lock that SQLite has on it.
  const beside: Array<number> = []
  const read = (name: string) => {
    const fd = openSync(name, "r")
    beside.push(fd)
    return fd
  }
  const pageEnds = (): ReadonlyArray<number> => {
    try {
      const pageSize = Number(db.prepare("PRAGMA page_size").get()?.["page_size"])
      return idsThatEndPages(read(path), existsSync(walOf(path)) ? read(walOf(path)) : undefined, pageSize)
    } catch {
      return []
    }
  }
  // Where a page is broken, it goes on behind it.
  function* salvage(): Generator<Row> {
    let ends: ReadonlyArray<number> | undefined
    let end = 0
    for (let seen = 0; ; ) {
      let found = attempt(() => rowsAfter(seen, 1)[0])
      if (found === undefined) ends ??= pageEnds()
      for (; found === undefined && ends !== undefined && end < ends.length; end++) {
        const last = ends[end] ?? 0
        if (last > seen) found = attempt(() => firstFrom(last + 1))
      }
      if (found?.row === undefined) return
      yield found.row
      seen = found.row.id
    }
  }

  const letGo = () => {
    try {
      db.close()
    } catch {
      // Broken, or its disk is: it is let go of nevertheless when the process ends.
    }
    for (const fd of beside.splice(0)) closeSync(fd)
  }
  return {
    path,
    rows: rowsAfter,
    row: (id) => one.get(id) as Row | undefined,
    firstFrom,
    insert: (id, head, body) => {
      put.run(id, checksum(id, head, body), head, body)
    },
    remove,
    setAside: (id, why) =>
      together(() => {
        copyAside.run(why, id)
        remove(id)
      }),
    dropped: () => Number(droppedCount.get()?.["count"] ?? 0),
    setDropped: (count) => {
      setDropped.run(count)
    },
    together,
    salvage,
    close: letGo,
    // The name goes before the lock does, or somebody would take the file over, and lose it.
    retire: () => {
      let last = path
      let held: number | undefined
      try {
        if (anyDamaged.get() === undefined) {
          held = openSync(path, "r")
          rmSync(path)
        } else {
          db.exec("PRAGMA wal_checkpoint(TRUNCATE)")
          last = moveAside(path)
        }
      } catch {
        // It is empty, and the next one who looks removes it. Closed later, this would take that one's lock away.
        if (held !== undefined) closeSync(held)
        held = undefined
      }
      letGo()
      if (!existsSync(path)) rmSync(walOf(last), { force: true })
      // Whoever closes a large file last waits until its room is free: not this thread.
      if (held !== undefined) close(held, () => {})
    },
  }
}
