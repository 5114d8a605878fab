// What the database could not take, on disk: in order, checksummed, bounded, and there after a kill -9.

import { randomUUID } from "node:crypto"
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, statSync } from "node:fs"
import { join, resolve } from "node:path"
import { setImmediate as pause, setTimeout as sleep } from "node:timers/promises"
import { Data, Option, Schema } from "effect"
import { messageOf } from "./errors.ts"
import {
  brokenFile,
  checksum,
  FileTaken,
  isDamage,
  type JournalFile,
  moveAside,
  openJournalFile,
  type Row,
} from "./journal-file.ts"

/** `claim`: decides who has a call, and is never dropped. `story`: only tells what happened. */
export type RecordKind = "claim" | "story"

/** A record that waits for the database. */
export interface Kept {
  /** Unique in this process. */
  readonly id: number
  readonly kind: RecordKind
  readonly what: string
  readonly names: ReadonlyArray<string>
  readonly body: unknown
}

/** The disk is full, read-only or broken: nothing was done. */
export class JournalFailed extends Data.TaggedError("JournalFailed")<{ readonly cause: unknown }> {
  override get message() {
    return `The journal cannot be used: ${messageOf(this.cause)}`
  }
}

/** What was wrong with what was found on disk, told once and without anything that is in a record. */
export type Trouble =
  /** A record is set aside. */
  | { readonly _tag: "RecordDamaged"; readonly file: string; readonly kind: RecordKind; readonly why: string }
  /** A file is set aside; `rescued` records of it go on in another one. */
  | {
      readonly _tag: "FileDamaged"
      readonly file: string
      readonly movedTo: string
      readonly rescued: number
      readonly why: string
    }
  /** A file stays as it is, and what is in it waits. */
  | { readonly _tag: "FileLeft"; readonly file: string; readonly why: string }
  /** Nothing can be kept now; every `append` tries again. */
  | { readonly _tag: "Unwritable"; readonly directory: string; readonly why: string }

export interface Journal {
  /**
   * Appends a record, and has handed it to the operating system when it returns its id. `body` is a JSON value.
   * Throws `JournalFailed`.
   */
  readonly append: (kind: RecordKind, what: string, names: ReadonlyArray<string>, body: unknown) => number
  /**
   * The first `limit` records that are not forgotten, claims before stories, each kind in the order of its arrival.
   * Throws `JournalFailed`.
   */
  readonly read: (limit: number) => ReadonlyArray<Kept>
  /**
   * The record is written to the database. Never throws: where the disk does not let go of it, it is forgotten in
   * this process, and read again by the next one.
   */
  readonly forget: (id: number) => void
  /** Whether a record waits that goes by one of these names. An empty name is none. */
  readonly holds: (names: ReadonlyArray<string>) => boolean
  /** `bytes` waiting; stories `dropped` for want of room, in earlier processes too as long as something waited. */
  readonly size: () => {
    readonly claims: number
    readonly stories: number
    readonly bytes: number
    readonly dropped: number
    /** Records set aside since this process began. */
    readonly damaged: number
  }
  /** Takes over what processes that are gone have left, and returns how many records those were. */
  readonly adopt: () => Promise<number>
  /** Leaves what waits to the next process. */
  readonly close: () => void
}

const defaultMaxBytes = 256 * 1024 * 1024

/** What SQLite needs beside the two texts of a record. */
const rowOverhead = 32

const chunk = 500

/**
 * Longest pauses before a file is looked at again that somebody has, ms. Two who open a file at the same moment can
 * keep each other from its lock, and then neither has it (SQLite: both share it, and none gets it for himself).
 */
const lookAgainWithin = [5, 10, 20, 40]

/** A file that has grown by so many bytes is not used again once it is empty. */
const worthReplacing = 1024 * 1024

/** Ids are microseconds since 1970, so that they are in order across processes; those of stories start here. */
const firstStory = 2 ** 52

const fileName = /^journal-[0-9a-f-]{36}\.sqlite$/

const decodeHead = Schema.decodeUnknownOption(
  Schema.fromJsonString(Schema.Tuple([Schema.String, Schema.Array(Schema.String)])),
)
const decodeBody = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

const kindOf = (id: number): RecordKind => (id < firstStory ? "claim" : "story")

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0

const toJson = (value: unknown): string => {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (cause) {
    throw new JournalFailed({ cause })
  }
  if (text === undefined) throw new JournalFailed({ cause: "what is no JSON value cannot be kept" })
  return text
}

type Content = Omit<Row, "crc">

// A damaged row may have anything in any of its columns.
const bytesOf = ({ head, body }: Content) =>
  Buffer.byteLength(String(head)) + Buffer.byteLength(String(body)) + rowOverhead

const namesOf = ({ head }: Content): ReadonlyArray<string> =>
  Option.match(decodeHead(head), { onNone: () => [], onSome: ([, names]) => names })

type Head = readonly [what: string, names: ReadonlyArray<string>]

/** What a row is about, or what is wrong with it. */
const headOf = ({ id, crc, head, body }: Row): Head | string => {
  if (typeof head !== "string" || typeof body !== "string" || checksum(id, head, body) !== crc)
    return "its checksum does not match"
  return Option.getOrElse(decodeHead(head), () => "it is not JSON")
}

const decode = (row: Row): Kept | string => {
  const head = headOf(row)
  if (typeof head === "string") return head
  const body = decodeBody(row.body)
  if (Option.isNone(body)) return "it is not JSON"
  return { id: row.id, kind: kindOf(row.id), what: head[0], names: head[1], body: body.value }
}

/** Names with the number of records that go by them. */
class Names {
  private readonly counts = new Map<string, number>()

  add(names: ReadonlyArray<string>) {
    for (const name of names) this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
  }

  remove(names: ReadonlyArray<string>) {
    for (const name of names) {
      const left = (this.counts.get(name) ?? 0) - 1
      if (left > 0) this.counts.set(name, left)
      else this.counts.delete(name)
    }
  }

  clear() {
    this.counts.clear()
  }

  has(names: ReadonlyArray<string>) {
    return this.counts.size > 0 && names.some((name) => name !== "" && this.counts.has(name))
  }
}

/** All files of a directory, the largest first: that one is used as it is, and the others are copied. */
const filesIn = (place: string): ReadonlyArray<string> => {
  try {
    return readdirSync(place)
      .filter((name) => fileName.test(name))
      .map((name) => join(place, name))
      .map((path) => ({ path, size: sizeOf(path) + sizeOf(`${path}-wal`) }))
      .sort((one, other) => other.size - one.size)
      .map(({ path }) => path)
  } catch {
    return []
  }
}

/**
 * Opens the journal in `directory`, making it where needed, and adopts what processes that are gone have left there.
 * `maxBytes` bounds what waits (256 MiB): beyond it the oldest stories go. `tell` hears what was wrong on disk, for
 * which it never rejects: where nothing can be written, `append` throws.
 */
export const openJournal = async (
  directory: string,
  options: { readonly maxBytes?: number; readonly tell?: (trouble: Trouble) => void } = {},
): Promise<Journal> => {
  const sqlite = await import("node:sqlite")
  const { maxBytes = defaultMaxBytes, tell = () => {} } = options
  const place = resolve(directory)
  const names = new Names()
  /** Done with, but the disk has not let go of them. */
  const ghosts = new Set<number>()
  const left = new Set<string>()
  let own: JournalFile | undefined
  let unbegun: string | undefined
  let grownBy = 0
  let claims = 0
  let stories = 0
  let bytes = 0
  let dropped = 0
  let damaged = 0
  let latest = 0
  let closed = false

  // ---- What waits, counted in memory.

  const count = (row: Content, its: ReadonlyArray<string>) => {
    if (kindOf(row.id) === "claim") claims++
    else stories++
    bytes += bytesOf(row)
    latest = Math.max(latest, row.id % firstStory)
    names.add(its)
  }
  const uncount = (row: Content) => {
    if (kindOf(row.id) === "claim") claims--
    else stories--
    bytes -= bytesOf(row)
    names.remove(namesOf(row))
  }
  const clearCounts = () => {
    claims = stories = bytes = 0
    names.clear()
    ghosts.clear()
  }

  // ---- Files.

  const begin = (): JournalFile => {
    mkdirSync(place, { recursive: true, mode: 0o700 })
    while (true) {
      // One that could not be begun is tried again, and not removed: it may be another's by now.
      const path = unbegun ?? join(place, `journal-${randomUUID()}.sqlite`)
      if (unbegun === undefined) closeSync(openSync(path, "wx", 0o600))
      unbegun = path
      try {
        const file = openJournalFile(sqlite, path)
        unbegun = undefined
        grownBy = 0
        return file
      } catch (error) {
        if (!(error instanceof FileTaken) && existsSync(path)) throw error
        // Somebody who looks for files without an owner was faster, and may have removed it.
        unbegun = undefined
      }
    }
  }

  const leave = (file: string, cause: unknown) => {
    if (left.has(file)) return
    left.add(file)
    tell({ _tag: "FileLeft", file, why: messageOf(cause) })
  }

  const condemn = (file: string, cause: unknown, rescued: number) => {
    try {
      tell({ _tag: "FileDamaged", file, movedTo: moveAside(file), rescued, why: messageOf(cause) })
    } catch (error) {
      // Where it is gone, another process was faster.
      if (existsSync(file)) leave(file, error)
    }
  }

  const find = (path: string): JournalFile | "taken" | undefined => {
    try {
      return openJournalFile(sqlite, path)
    } catch (error) {
      if (isDamage(error)) condemn(path, error, 0)
      else if (error instanceof FileTaken) return "taken"
      else if (existsSync(path)) leave(path, error)
      return undefined
    }
  }

  /** Gives each file of the directory that nobody has to `use`, one after the other. */
  const findAll = async (use: (file: JournalFile) => Promise<void>) => {
    let paths = filesIn(place)
    for (const longest of [...lookAgainWithin, undefined]) {
      const taken: Array<string> = []
      for (const path of paths) {
        if (closed) return
        const file = path === own?.path ? undefined : find(path)
        if (file === "taken") taken.push(path)
        else if (file !== undefined) await use(file)
      }
      paths = taken.filter((path) => existsSync(path))
      if (paths.length === 0 || longest === undefined) return
      await sleep(Math.random() * longest)
    }
  }

  const once = <A>(work: (file: JournalFile) => A): A => {
    own ??= begin()
    return work(own)
  }
  const attempt = <A>(work: (file: JournalFile) => A): A => {
    if (closed) throw new JournalFailed({ cause: "it is closed" })
    try {
      try {
        return once(work)
      } catch (error) {
        if (own === undefined || !isDamage(error)) throw error
        replace(own, error)
        return once(work)
      }
    } catch (cause) {
      throw new JournalFailed({ cause })
    }
  }

  // ---- Records.

  const putAside = (file: JournalFile, row: Row, why: string) => {
    damaged++
    tell({ _tag: "RecordDamaged", file: file.path, kind: kindOf(row.id), why })
    try {
      file.setAside(row.id, why)
    } catch (error) {
      if (file !== own || isDamage(error)) throw error
      ghosts.add(row.id)
    }
  }

  /** Deletes the oldest stories until there is room for `size` more bytes, and returns them, not yet uncounted. */
  const makeRoom = (file: JournalFile, size: number): ReadonlyArray<Row> => {
    const given: Array<Row> = []
    for (let excess = bytes + size - maxBytes; excess > 0; ) {
      const oldest = file.firstFrom(firstStory)
      if (oldest === undefined) break
      file.remove(oldest.id)
      if (ghosts.has(oldest.id)) continue
      given.push(oldest)
      excess -= bytesOf(oldest)
    }
    if (given.length > 0) file.setDropped(dropped + given.length)
    return given
  }
  const countDropped = (given: ReadonlyArray<Row>) => {
    dropped += given.length
    given.forEach(uncount)
  }

  /** Copies rows of another file to where they belong in this one; what is there already is not copied again. */
  const take = (file: JournalFile, rows: ReadonlyArray<Row>): number => {
    const taken: Array<Row> = []
    file.together(() => {
      for (const row of rows) {
        let id = row.id
        let there = file.row(id)
        while (there !== undefined && !(there.head === row.head && there.body === row.body))
          there = file.row(++id)
        if (there !== undefined) continue
        file.insert(id, row.head, row.body)
        taken.push({ ...row, id })
      }
    })
    for (const row of taken) {
      count(row, namesOf(row))
      grownBy += bytesOf(row)
    }
    let given: ReadonlyArray<Row> = []
    if (bytes > maxBytes)
      file.together(() => {
        given = makeRoom(file, 0)
      })
    countDropped(given)
    return taken.length
  }

  /** Copies whatever can still be read of a broken file, but for these ids, and puts the file out of the way. */
  const rescue = (sick: JournalFile, cause: unknown, without: ReadonlySet<number>): number => {
    let rescued = 0
    let rows: Array<Row> = []
    const flush = () => {
      rescued += once((file) => take(file, rows))
      rows = []
    }
    try {
      for (const row of sick.salvage()) {
        const head = headOf(row)
        if (typeof head === "string") {
          damaged++
          tell({ _tag: "RecordDamaged", file: sick.path, kind: kindOf(row.id), why: head })
        } else if (!without.has(row.id)) rows.push(row)
        if (rows.length === chunk) flush()
      }
      flush()
      condemn(sick.path, cause, rescued)
    } catch (error) {
      leave(sick.path, error)
    }
    sick.close()
    return rescued
  }

  /** Goes on in a new file with what is left of the own one. */
  const replace = (sick: JournalFile, cause: unknown) => {
    own = begin()
    const without = new Set(ghosts)
    clearCounts()
    rescue(sick, cause, without)
    if (dropped > 0) own.setDropped(dropped)
  }

  // ---- Files of processes that are gone.

  const takeOver = async (file: JournalFile) => {
    own = file
    grownBy = worthReplacing
    try {
      dropped += file.dropped()
      for (let after = 0; ; await pause()) {
        const rows = file.rows(after, chunk)
        for (const row of rows) {
          const head = headOf(row)
          if (typeof head === "string") putAside(file, row, head)
          else count(row, head[1])
        }
        if (rows.length < chunk) return
        after = rows.at(-1)!.id
      }
    } catch (error) {
      try {
        if (!isDamage(error)) throw error
        replace(file, error)
      } catch (failure) {
        own = undefined
        clearCounts()
        file.close()
        leave(file.path, failure)
      }
    }
  }

  const moveIn = async (other: JournalFile): Promise<number> => {
    let moved = 0
    try {
      for (let rows = other.rows(0, chunk); rows.length > 0; rows = other.rows(0, chunk)) {
        const sound = rows.filter((row) => {
          const head = headOf(row)
          if (typeof head === "string") putAside(other, row, head)
          return typeof head !== "string"
        })
        moved += attempt((file) => take(file, sound))
        other.together(() => {
          for (const { id } of sound) other.remove(id)
        })
        await pause()
        if (closed) {
          other.close()
          return moved
        }
      }
      const given = other.dropped()
      if (given > 0) {
        attempt((file) => file.setDropped(dropped + given))
        dropped += given
      }
      other.retire()
    } catch (error) {
      if (isDamage(error)) return moved + rescue(other, error, new Set())
      other.close()
      leave(other.path, error)
    }
    return moved
  }

  const adoptAll = async () => {
    let adopted = 0
    await findAll(async (file) => {
      adopted += await moveIn(file)
    })
    return adopted
  }
  let adopting: Promise<number> | undefined

  // ---- At once.

  await findAll(async (file) => {
    if (own === undefined) await takeOver(file)
    else await moveIn(file)
  })
  try {
    once(() => {})
  } catch (error) {
    tell({ _tag: "Unwritable", directory: place, why: messageOf(error) })
  }

  const exorcise = (file: JournalFile) => {
    for (const id of ghosts) {
      if (file.row(id) !== undefined) file.remove(id)
      ghosts.delete(id)
    }
  }

  /** Nothing waits: a file that has become large gives its room back, and what the disk did not let go of is lost. */
  const tidy = () => {
    const replaced = grownBy >= worthReplacing || ghosts.size > 0
    clearCounts()
    if (!replaced) return
    own?.retire()
    own = undefined
    try {
      once(() => {})
    } catch {
      // The next `append` tries again.
    }
  }

  return {
    append: (kind, what, its, body) => {
      const head = toJson([what, its])
      const text = toJson(body)
      latest = Math.max(latest + 1, Date.now() * 1000)
      const row = { id: latest + (kind === "story" ? firstStory : 0), head, body: text }
      const size = bytesOf(row)
      const given = attempt((file) => {
        let gone: ReadonlyArray<Row> = []
        if (bytes + size <= maxBytes) file.insert(row.id, head, text)
        else
          file.together(() => {
            file.insert(row.id, head, text)
            gone = makeRoom(file, size)
          })
        return gone
      })
      count(row, its)
      grownBy += size
      countDropped(given)
      return row.id
    },
    read: (limit) => {
      if (own === undefined || closed) return []
      return attempt((file) => {
        const found: Array<Kept> = []
        for (let after = 0; found.length < limit; ) {
          const wanted = limit - found.length
          const rows = file.rows(after, wanted)
          for (const row of rows) {
            if (ghosts.has(row.id)) continue
            // It could never be forgotten, and would be written for ever.
            if (file.row(row.id) === undefined) throw brokenFile("a record is not found by its id")
            const kept = decode(row)
            if (typeof kept !== "string") found.push(kept)
            else {
              uncount(row)
              putAside(file, row, kept)
            }
          }
          if (rows.length < wanted) break
          after = rows.at(-1)!.id
        }
        return found
      })
    },
    forget: (id) => {
      if (own === undefined || closed || ghosts.has(id)) return
      try {
        const row = attempt((file) => file.row(id))
        if (row === undefined) return
        uncount(row)
      } catch {
        // It cannot be read, and so it is not read again.
      }
      ghosts.add(id)
      try {
        attempt(exorcise)
      } catch {
        // They stay ghosts until it goes, or the file does.
      }
      if (claims + stories === 0) tidy()
    },
    holds: (its) => names.has(its),
    size: () => ({ claims, stories, bytes, dropped, damaged }),
    adopt: () => {
      adopting ??= adoptAll().finally(() => {
        adopting = undefined
      })
      return adopting
    },
    close: () => {
      if (closed) return
      closed = true
      if (claims + stories > 0) own?.close()
      else own?.retire()
    },
  }
}
