// The journal on real files: what is in it is there after a kill -9, in order, whatever happens to the disk.

import { spawnSync } from "node:child_process"
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { crc32 } from "node:zlib"
import fc from "fast-check"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import {
  type Journal,
  JournalFailed,
  openJournal,
  type RecordKind,
  type Trouble,
} from "../../src/database/journal.ts"
import { ownRuntime, type Running, root, signal, start } from "../support/processes.ts"
import { cases } from "../support/properties.ts"
import { eventually, sleep } from "../support/waiting.ts"

let directory: string
let troubles: Array<Trouble>
const opened = new Set<Journal>()
const running = new Set<Running>()

beforeEach(() => {
  directory = join(mkdtempSync(join(tmpdir(), "switchhook-journal-")), "journal")
  troubles = []
})
afterEach(async () => {
  for (const journal of opened) journal.close()
  for (const { child, exited } of running) {
    signal(child, "SIGKILL")
    await exited
  }
  opened.clear()
  running.clear()
  rmSync(join(directory, ".."), { recursive: true, force: true })
})

const open = async (maxBytes?: number) => {
  const journal = await openJournal(directory, {
    ...(maxBytes === undefined ? {} : { maxBytes }),
    tell: (trouble) => troubles.push(trouble),
  })
  opened.add(journal)
  return journal
}

const inProcess = (what: string, ...args: ReadonlyArray<string>) => {
  const process = start(ownRuntime, "../test/support/journal-process.ts", {
    args: [what, directory, ...args],
  })
  running.add(process)
  return process
}

const kill = async ({ child, exited }: Running) => {
  signal(child, "SIGKILL")
  await exited
}

const whats = (journal: Journal) => journal.read(100_000).map(({ what }) => what)

const files = () => (existsSync(directory) ? readdirSync(directory).sort() : [])
const journals = () => files().filter((name) => name.endsWith(".sqlite"))
const onDisk = () => files().reduce((sum, name) => sum + statSync(join(directory, name)).size, 0)
const onlyFile = () => {
  const [only, ...more] = journals()
  if (only === undefined || more.length > 0) throw new Error(`there are ${journals().length} files`)
  return join(directory, only)
}

const appendAll = (journal: Journal, kind: RecordKind, ...its: ReadonlyArray<string>) =>
  its.map((what) => journal.append(kind, what, [what], { what }))

const forgetAll = (journal: Journal) => {
  for (const { id } of journal.read(100_000)) journal.forget(id)
}

const append = (journal: Journal, n: number) =>
  journal.append("story", `record ${n}`, [`name ${n}`], "x".repeat(1_000))

/** So many records of about 1 KB each. */
const appendMany = (journal: Journal, count: number) => {
  for (let n = 0; n < count; n++) append(journal, n)
}

describe("a journal", () => {
  it("gives what it got, claims first, each kind in its order, until it is forgotten", async () => {
    const journal = await open()
    const [s1] = appendAll(journal, "story", "s1", "s2")
    const [c1] = appendAll(journal, "claim", "c1")
    appendAll(journal, "story", "s3")
    appendAll(journal, "claim", "c2")
    expect(whats(journal)).toEqual(["c1", "c2", "s1", "s2", "s3"])
    expect(journal.read(3).map(({ what }) => what)).toEqual(["c1", "c2", "s1"])
    expect(journal.read(1)).toEqual([
      { id: c1, kind: "claim", what: "c1", names: ["c1"], body: { what: "c1" } },
    ])
    expect(journal.size()).toMatchObject({ claims: 2, stories: 3, dropped: 0, damaged: 0 })
    journal.forget(s1!)
    journal.forget(s1!)
    journal.forget(c1!)
    expect(whats(journal)).toEqual(["c2", "s2", "s3"])
    forgetAll(journal)
    expect(journal.size()).toEqual({ claims: 0, stories: 0, bytes: 0, dropped: 0, damaged: 0 })
  })

  it("knows the names of what waits, before and after it is opened again", async () => {
    const journal = await open()
    const first = journal.append("claim", "first", ["call", "room", ""], null)
    journal.append("story", "second", ["room"], null)
    expect(journal.holds(["nobody", "call"])).toBe(true)
    expect(journal.holds(["nobody", ""])).toBe(false)
    journal.forget(first)
    expect([journal.holds(["call"]), journal.holds(["room"])]).toEqual([false, true])
    journal.close()
    const again = await open()
    expect([again.holds(["call"]), again.holds(["room"])]).toEqual([false, true])
    forgetAll(again)
    expect(again.holds(["room"])).toBe(false)
  })

  it("keeps any JSON value as it is", async () => {
    const journal = await open()
    const texts = [
      "",
      "\0",
      "a\0b",
      "\ud800",
      "\udc00x",
      "\u2028\u2029",
      "😀",
      "\r\n\t\"'",
      "x".repeat(100_000),
    ]
    const bodies = [null, true, 0.1, [], {}, ...texts, JSON.parse(`{"__proto__":{"a":[1,{"b":null}]}}`)]
    for (const body of bodies) journal.append("story", "any", [], body)
    for (const text of texts) journal.append("story", text, [text, text], 1)
    const held = () => journal.read(1_000).map(({ body }) => JSON.stringify(body))
    expect(held()).toEqual([...bodies, ...texts.map(() => 1)].map((body) => JSON.stringify(body)))
    journal.close()
    const again = await open()
    const kept = again.read(1_000)
    expect(kept.map(({ body }) => body)).toEqual([...bodies, ...texts.map(() => 1)])
    expect(kept.slice(-texts.length).map(({ what, names }) => [what, ...names])).toEqual(
      texts.map((text) => [text, text, text]),
    )
    expect(again.holds(["a\0b"])).toBe(true)
  })

  it("refuses what is no JSON value, and keeps nothing of it", async () => {
    const journal = await open()
    for (const body of [undefined, 1n, () => {}])
      expect(() => journal.append("story", "no", ["no"], body)).toThrow(JournalFailed)
    expect(whats(journal)).toEqual([])
    expect(journal.holds(["no"])).toBe(false)
  })

  it("lets nobody else read its files, and leaves none behind when it is closed empty", async () => {
    const journal = await open()
    appendAll(journal, "claim", "c")
    const modes = [directory, ...files().map((name) => join(directory, name))].map(
      (path) => statSync(path).mode,
    )
    expect(modes.map((mode) => (mode & 0o777).toString(8))).toEqual(["700", "600", "600"])
    forgetAll(journal)
    journal.close()
    expect(files()).toEqual([])
    expect(() => appendAll(journal, "claim", "c")).toThrow(JournalFailed)
    expect(journal.read(1)).toEqual([])
  })

  it("is there again in order after it was closed, and goes on", async () => {
    const first = await open()
    appendAll(first, "story", "s1", "s2")
    appendAll(first, "claim", "c1")
    first.close()
    const second = await open()
    appendAll(second, "claim", "c2")
    appendAll(second, "story", "s3")
    second.close()
    const third = await open()
    expect(whats(third)).toEqual(["c1", "c2", "s1", "s2", "s3"])
    expect(journals()).toHaveLength(1)
    expect(troubles).toEqual([])
  })

  it("is in the order of its arrival, though the clock is set back", async () => {
    const first = await open()
    appendAll(first, "claim", "c1", "c2")
    first.close()
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 3_600_000 })
    try {
      const second = await open()
      appendAll(second, "claim", "c3")
      expect(whats(second)).toEqual(["c1", "c2", "c3"])
    } finally {
      vi.useRealTimers()
    }
  })

  it("has everything for which append has returned after a kill -9", async () => {
    const writer = inProcess("append")
    const said = () => writer.output().split("\n").filter(Boolean).map(Number)
    await eventually("some records", () => said().length > 1_000)
    await kill(writer)
    const last = said().at(-1)!
    const journal = await open()
    const kept = journal.read(100_000)
    expect(kept.length).toBeGreaterThan(last)
    // One more may have been kept when it was killed.
    expect(kept.length).toBeLessThanOrEqual(last + 2)
    const order = kept.map(({ body }) => (body as { n: number }).n)
    const numbers = Array.from(kept, (_, n) => n)
    expect(order).toEqual([...numbers.filter((n) => n % 3 === 0), ...numbers.filter((n) => n % 3 !== 0)])
    expect(journal.holds([`name ${last}`])).toBe(true)
    expect(troubles).toEqual([])
  })
})

describe("a bound", () => {
  it("drops the oldest stories and counts them, and never a claim", async () => {
    const maxBytes = 20_000
    const journal = await open(maxBytes)
    const claims = Array.from({ length: 20 }, (_, n) => `c${n}`)
    const stories = Array.from({ length: 500 }, (_, n) => `s${n}`)
    for (const [n, story] of stories.entries()) {
      if (n % 25 === 0) appendAll(journal, "claim", claims[n / 25]!)
      appendAll(journal, "story", story)
      expect(journal.size().bytes).toBeLessThanOrEqual(maxBytes)
    }
    const size = journal.size()
    expect(size.bytes).toBeGreaterThan(maxBytes * 0.98)
    expect(size).toMatchObject({ claims: 20, dropped: 500 - size.stories })
    expect(whats(journal)).toEqual([...claims, ...stories.slice(-size.stories)])
    expect([journal.holds(["s0"]), journal.holds(["s499"])]).toEqual([false, true])
    journal.close()
    expect((await open(maxBytes)).size()).toEqual(size)
  })

  it("gives way to claims, and then keeps no story", async () => {
    const journal = await open(10_000)
    appendAll(journal, "story", "s1", "s2")
    for (let n = 0; n < 50; n++) journal.append("claim", `c${n}`, [], "x".repeat(1_000))
    appendAll(journal, "story", "s3")
    expect(journal.size()).toMatchObject({ claims: 50, stories: 0, dropped: 3 })
    forgetAll(journal)
    appendAll(journal, "story", "s4")
    expect(whats(journal)).toEqual(["s4"])
  })

  it("holds on disk, too, however often it is filled and drained", async () => {
    const maxBytes = 1_000_000
    const journal = await open(maxBytes)
    // As much as is copied from the log into the file at a time, and the log itself.
    const log = 2 * 4_200_000
    for (let round = 0; round < 6; round++) {
      appendMany(journal, 3_000)
      expect(onDisk()).toBeLessThan(1.3 * maxBytes + log)
      for (const { id } of journal.read(100_000).slice(1)) journal.forget(id)
    }
    expect(onDisk()).toBeLessThan(1.3 * maxBytes + log)
    forgetAll(journal)
    expect(onDisk()).toBeLessThan(100_000)
    expect(journals()).toHaveLength(1)
  })
})

describe("damage", () => {
  /** Closes the journal, lets SQL loose on its file, and opens it again. */
  const changed = async (journal: Journal, sql: string) => {
    journal.close()
    const db = new DatabaseSync(onlyFile())
    db.function("crc", (id, head, body) => crc32(String(body), crc32(`${id} ${head}`)))
    db.exec(sql)
    db.close()
    return open()
  }

  it("to one record sets that one aside, once, and stops no other", async () => {
    const first = await open()
    appendAll(first, "claim", "c1", "c2", "c3")
    appendAll(first, "story", "s1", "s2", "s3")
    const second = await changed(
      first,
      `UPDATE records SET body = replace(body, 'c2', 'c0') WHERE head LIKE '%c2%';
       UPDATE records SET head = 17 WHERE head LIKE '%s1%';
       UPDATE records SET body = 'no JSON', crc = crc(id, head, 'no JSON') WHERE head LIKE '%s3%'`,
    )
    expect(whats(second)).toEqual(["c1", "c3", "s2"])
    expect(whats(second)).toEqual(["c1", "c3", "s2"])
    expect(troubles.map((trouble) => [trouble._tag, "kind" in trouble && trouble.kind, trouble.why])).toEqual(
      [
        ["RecordDamaged", "claim", "its checksum does not match"],
        ["RecordDamaged", "story", "its checksum does not match"],
        ["RecordDamaged", "story", "it is not JSON"],
      ],
    )
    expect(second.size()).toMatchObject({ claims: 2, stories: 1, damaged: 3 })
    expect(["c1", "c2", "s1", "s3"].map((name) => second.holds([name]))).toEqual([true, false, false, false])
    second.close()
    const third = await open()
    expect(whats(third)).toEqual(["c1", "c3", "s2"])
    expect(troubles).toHaveLength(3)
    // What was set aside stays, for whoever wants to look at it.
    forgetAll(third)
    third.close()
    expect(files()).toEqual([expect.stringMatching(/^journal-.*\.sqlite\.damaged-/)])
    const left = new DatabaseSync(join(directory, files()[0]!))
    expect(left.prepare("SELECT count(*) AS n FROM damaged").get()?.["n"]).toBe(3)
    left.close()
  })

  it("to a byte on the disk is seen when the record is read", async () => {
    const first = await open()
    appendAll(first, "claim", "one", "two", "three")
    first.close()
    const bytes = readFileSync(onlyFile())
    bytes[bytes.lastIndexOf(`"what":"two"`) + 8]! ^= 1
    writeFileSync(onlyFile(), bytes)
    const second = await open()
    expect(whats(second)).toEqual(["one", "three"])
    expect(troubles).toMatchObject([{ _tag: "RecordDamaged", kind: "claim" }])
  })

  it("to a whole file puts it out of the way and begins a new one", async () => {
    const first = await open()
    appendAll(first, "claim", "c1")
    first.close()
    const path = onlyFile()
    writeFileSync(path, "x".repeat(9_000))
    const second = await open()
    expect(troubles).toMatchObject([{ _tag: "FileDamaged", file: path, rescued: 0 }])
    expect(whats(second)).toEqual([])
    appendAll(second, "claim", "c2")
    second.close()
    expect(files()).toHaveLength(2)
    expect(whats(await open())).toEqual(["c2"])
    expect(troubles).toHaveLength(1)
  })

  /** The places of the pages that hold records: all but the first few, and the page with their addresses. */
  const pageSize = 4_096
  const leaves = (bytes: Buffer) =>
    Array.from({ length: bytes.length / pageSize }, (_, n) => n * pageSize).filter(
      (at) => at > 0 && bytes[at] === 13 && bytes.subarray(at, at + pageSize).includes("record "),
    )

  const recordsIn = (page: Buffer) =>
    [...page.toString("latin1").matchAll(/\["(record \d+|c1)"/g)].map(([, name]) => name)

  it("to some pages of a file loses what was there, and nothing else, whenever that was written", async () => {
    const total = 150
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(total), fc.integer({ min: 1, max: 24 * 3_600_000 })), { maxLength: 10 }),
        fc.uniqueArray(fc.nat(40), { minLength: 1, maxLength: 10 }),
        async (pauses, places) => {
          rmSync(directory, { recursive: true, force: true })
          troubles = []
          const first = await open()
          appendAll(first, "claim", "c1")
          let now = Date.now()
          const clock = vi.spyOn(Date, "now").mockImplementation(() => now)
          for (let n = 0; n < total; n++) {
            for (const [at, pause] of pauses) if (at === n) now += pause
            append(first, n)
          }
          clock.mockRestore()
          first.close()
          const bytes = readFileSync(onlyFile())
          const pages = leaves(bytes)
          const broken = places.map((place) => pages[place]).filter((at) => at !== undefined)
          const lost = new Set(broken.flatMap((at) => recordsIn(bytes.subarray(at, at + pageSize))))
          for (const at of broken) bytes.fill(0xa5, at, at + pageSize)
          writeFileSync(onlyFile(), bytes)
          const second = await open()
          const kept = whats(second)
          const written = ["c1", ...Array.from({ length: total }, (_, n) => `record ${n}`)]
          expect(lost.size).toBeGreaterThan(0)
          expect(kept).toEqual(written.filter((name) => !lost.has(name)))
          expect(troubles).toMatchObject([{ _tag: "FileDamaged", rescued: kept.length }])
          expect(journals()).toHaveLength(1)
          second.close()
          expect(whats(await open())).toEqual(kept)
          expect(troubles).toHaveLength(1)
        },
      ),
      { ...cases, numRuns: 50 },
    )
  })

  it("to any bytes ends nothing: what is given can be forgotten, and is as it was", async () => {
    const total = 150
    const first = await open()
    for (let n = 0; n < total; n++)
      first.append(n % 10 === 0 ? "claim" : "story", `record ${n}`, [], "x".repeat(n % 3 === 0 ? 900 : 40))
    const whole = first.read(total)
    first.close()
    const path = onlyFile()
    const sound = readFileSync(path)
    const spoiled = fc.tuple(
      fc.nat(sound.length / pageSize - 2),
      fc.oneof(fc.nat(120), fc.nat(pageSize - 1)),
      fc.nat(255),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(spoiled, { minLength: 1, maxLength: 12 }), async (places) => {
        for (const name of files()) rmSync(join(directory, name))
        const bytes = Buffer.from(sound)
        for (const [page, at, byte] of places) bytes[(page + 1) * pageSize + at] = byte
        writeFileSync(path, bytes)
        const journal = await open()
        const given = journal.read(total)
        for (const record of given) expect(whole).toContainEqual(record)
        for (const { id } of given) journal.forget(id)
        expect(journal.read(total)).toEqual([])
        journal.close()
      }),
      { ...cases, numRuns: 200 },
    )
  })

  it("to a file that is in use is survived, too: ids stay what they are", async () => {
    const first = await open()
    appendAll(first, "claim", "c1")
    appendMany(first, 5_000)
    first.close()
    const journal = await open()
    const path = onlyFile()
    const [claim, ...stories] = journal.read(50)
    const bytes = readFileSync(path)
    const middle = leaves(bytes)[600]!
    bytes.fill(0xa5, middle, middle + pageSize)
    writeFileSync(path, bytes)
    journal.forget(claim!.id)
    const kept = whats(journal)
    expect(kept.length).toBeGreaterThanOrEqual(4_996)
    expect(kept.length).toBeLessThan(5_000)
    expect(troubles).toMatchObject([{ _tag: "FileDamaged", file: path, rescued: kept.length }])
    journal.forget(stories[0]!.id)
    appendAll(journal, "claim", "c2")
    expect(whats(journal)).toEqual(["c2", ...kept.slice(1)])
    expect(journal.size()).toMatchObject({ claims: 1, stories: kept.length - 1 })
  })

  it("by cutting a file off is no reason to stop", async () => {
    const first = await open()
    appendMany(first, 400)
    first.close()
    truncateSync(onlyFile(), 20 * pageSize)
    const second = await open()
    expect(troubles).toMatchObject([{ _tag: "FileDamaged" }])
    appendAll(second, "claim", "c1")
    expect(whats(second)[0]).toBe("c1")
  })

  it("is not what a file of another version has: that one is left alone", async () => {
    const first = await open()
    appendAll(first, "claim", "c1")
    const second = await changed(first, "PRAGMA user_version = 2")
    expect(troubles).toMatchObject([{ _tag: "FileLeft", why: "made by another version (2)" }])
    expect(whats(second)).toEqual([])
    await second.adopt()
    expect(troubles).toHaveLength(1)
    expect(journals()).toHaveLength(2)
  })
})

describe("a disk", () => {
  it("on which nothing can be written is told of, and tried again with every record", async () => {
    writeFileSync(directory, "a file, where the directory should be")
    const journal = await open()
    expect(troubles).toMatchObject([{ _tag: "Unwritable", directory }])
    expect(() => appendAll(journal, "claim", "c1")).toThrow(JournalFailed)
    expect(whats(journal)).toEqual([])
    expect(journal.holds(["c1"])).toBe(false)
    expect(journal.size()).toEqual({ claims: 0, stories: 0, bytes: 0, dropped: 0, damaged: 0 })
    rmSync(directory)
    appendAll(journal, "claim", "c2")
    expect(whats(journal)).toEqual(["c2"])
  })

  it("that is full refuses records, and gives and forgets those it has", () => {
    // A limit on the size of a file, in place of a full disk.
    const command = [
      `${root}node_modules/.bin/${ownRuntime}`,
      ...(ownRuntime === "deno" ? ["run", "-A"] : []),
    ]
    const script = [`${root}test/support/journal-process.ts`, "fill", directory]
    const limited = `trap '' XFSZ; ulimit -f 2000; exec "$@"`
    const { stdout, stderr } = spawnSync("sh", ["-c", limited, "sh", ...command, ...script], {
      encoding: "utf8",
    })
    expect(stderr).toBe("")
    const said = JSON.parse(stdout)
    expect(said.failed).toBe("JournalFailed")
    expect(said.before).toBeGreaterThan(10)
    expect(said.kept).toEqual(Array.from({ length: said.before }, (_, n) => `record ${n}`))
    expect(said.left).toBe(said.before - 1)
    expect(said.size).toMatchObject({ stories: 0, bytes: 0 })
    expect([said.again, said.next]).toEqual([true, `record ${said.before}`])
  })
})

describe("several processes on one directory", () => {
  it("leave the file of one that lives alone, and take it over when it is killed", async () => {
    const dead = await open()
    appendAll(dead, "claim", "left by the dead")
    dead.close()
    const other = inProcess("look")
    // It says nothing else, neither here nor there.
    await eventually("it has it", () => other.output() === `["left by the dead"]\n`)
    const journal = await open()
    appendAll(journal, "claim", "own")
    expect(whats(journal)).toEqual(["own"])
    expect(await journal.adopt()).toBe(0)
    await kill(other)
    expect(await journal.adopt()).toBe(1)
    expect(whats(journal)).toEqual(["left by the dead", "own"])
    expect(journal.holds(["left by the dead"])).toBe(true)
    expect(journals()).toHaveLength(1)
    expect(troubles).toEqual([])
  })

  it("share out what is left, each record to one of them, though they start at the same moment", async () => {
    const count = 40
    const left = await Promise.all(Array.from({ length: count }, () => open()))
    for (const [n, journal] of left.entries()) appendAll(journal, "claim", `a${n}`, `b${n}`)
    for (const journal of left) journal.close()
    expect(journals()).toHaveLength(count)
    const at = String(Date.now() + 700)
    const processes = Array.from({ length: 2 }, () => inProcess("look", at))
    const found = await eventually("they say what they have", () => {
      const outputs = processes.map((process) => process.output())
      const done = outputs.every((output) => output.endsWith("\n"))
      return done ? outputs.flatMap((output): ReadonlyArray<string> => JSON.parse(output)) : undefined
    })
    const all = Array.from({ length: count }, (_, n) => [`a${n}`, `b${n}`]).flat()
    expect([...found].sort()).toEqual(all.sort())
  })

  it("are replayed in the order in which it all came", async () => {
    const [one, other] = [await open(), await open()]
    for (const what of ["1", "2", "3", "4", "5", "6"]) {
      appendAll(Number(what) % 2 === 0 ? one : other, "claim", what)
      appendAll(Number(what) % 2 === 0 ? other : one, "story", `s${what}`)
      await sleep(2)
    }
    one.close()
    expect(await other.adopt()).toBe(6)
    expect(whats(other)).toEqual(["1", "2", "3", "4", "5", "6", "s1", "s2", "s3", "s4", "s5", "s6"])
    other.close()
    const next = await open()
    expect(whats(next)).toHaveLength(12)
    expect(journals()).toHaveLength(1)
  })

  it("hand on how much was dropped", async () => {
    const [one, other] = [await open(2_000), await open(2_000)]
    for (let n = 0; n < 100; n++) appendAll(one, "story", `s${n}`)
    const { dropped } = one.size()
    one.close()
    await other.adopt()
    expect(other.size().dropped).toBe(dropped)
    appendAll(other, "story", "more")
    expect(other.size().dropped).toBe(dropped + 1)
  })

  it("keep a record once that was copied by one who was killed before he could remove it", async () => {
    const one = await open()
    const path = onlyFile()
    const other = await open()
    appendAll(one, "claim", "c1", "c2")
    const copied = one.read(2)
    one.close()
    const bytes = readFileSync(path)
    expect(await other.adopt()).toBe(2)
    expect(existsSync(path)).toBe(false)
    writeFileSync(path, bytes)
    expect(await other.adopt()).toBe(0)
    expect(existsSync(path)).toBe(false)
    expect(other.read(10)).toEqual(copied)
  })
})

describe("whatever is done to it", () => {
  const name = fc.constantFrom("a", "b", "c", "\0", "")
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant("append" as const),
        kind: fc.constantFrom<RecordKind>("claim", "story", "story"),
        what: fc.string({ unit: "binary", maxLength: 8 }),
        names: fc.array(name, { maxLength: 3 }),
        body: fc.jsonValue({ maxDepth: 2 }),
      }),
    },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("forget" as const), which: fc.nat({ max: 6 }) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("read" as const), limit: fc.nat({ max: 6 }) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("reopen" as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("adopt" as const) }) },
  )

  interface Modelled {
    readonly id: number
    readonly kind: RecordKind
    readonly what: string
    readonly names: ReadonlyArray<string>
    readonly body: unknown
  }

  it("is a list of claims and one of stories, of which the oldest may be gone", async () => {
    const maxBytes = 800
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 25 }), async (steps) => {
        let journal = await open(maxBytes)
        let claims: Array<Modelled> = []
        let stories: Array<Modelled> = []
        let dropped = 0
        for (const at of steps) {
          switch (at.do) {
            case "append": {
              const { kind, what, names } = at
              const body: unknown = JSON.parse(JSON.stringify(at.body))
              const id = journal.append(kind, what, names, at.body)
              ;(kind === "claim" ? claims : stories).push({ id, kind, what, names, body })
              const gone = stories.length - journal.size().stories
              // Stories go only where there is no room for them.
              if (gone > 0) expect(journal.size().bytes).toBeGreaterThan(maxBytes - 400)
              stories = stories.slice(gone)
              dropped += gone
              break
            }
            case "forget": {
              const record = [...claims, ...stories][at.which]
              if (record === undefined) break
              journal.forget(record.id)
              claims = claims.filter((each) => each !== record)
              stories = stories.filter((each) => each !== record)
              break
            }
            case "read":
              expect(journal.read(at.limit)).toEqual([...claims, ...stories].slice(0, at.limit))
              break
            case "reopen":
              journal.close()
              if (claims.length + stories.length === 0) dropped = 0
              journal = await open(maxBytes)
              break
            case "adopt":
              expect(await journal.adopt()).toBe(0)
          }
          const all = [...claims, ...stories]
          const size = journal.size()
          expect(size).toMatchObject({ claims: claims.length, stories: stories.length, dropped, damaged: 0 })
          expect(size.bytes <= maxBytes || stories.length === 0).toBe(true)
          for (const each of ["a", "b", "c", "\0"])
            expect(journal.holds([each])).toBe(all.some(({ names }) => names.includes(each)))
          expect(journal.holds([""])).toBe(false)
          expect(journal.read(1_000)).toEqual(all)
        }
        forgetAll(journal)
        expect(journal.size()).toMatchObject({ claims: 0, stories: 0, bytes: 0 })
        journal.close()
        expect(files()).toEqual([])
        expect(troubles).toEqual([])
      }),
      { ...cases, numRuns: 200 },
    )
  })
})
