// A process with a journal, to be killed: `journal-process.ts <what> <directory> [<start, ms since 1970>]`.

import { writeSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { JournalFailed, openJournal } from "../../src/database/journal.ts"

const [, , what, directory = "", at = "0"] = process.argv

// At once, so that nothing is said later than it is true.
const say = (value: unknown) => writeSync(1, `${JSON.stringify(value)}\n`)

/** Appends until it is killed, and says the number of each record that is kept. */
const append = async () => {
  const journal = await openJournal(directory)
  for (let n = 0; ; n++) {
    journal.append(n % 3 === 0 ? "claim" : "story", `record ${n}`, [`name ${n}`], {
      n,
      text: "x".repeat(3_000),
    })
    say(n)
  }
}

/** Says what it has found, and stays. */
const look = async () => {
  await sleep(Math.max(0, Number(at) - Date.now()))
  const journal = await openJournal(directory)
  say(journal.read(1_000).map((kept) => kept.what))
  await sleep(60_000)
}

/** Appends until there is no room on the disk, and does all the rest. */
const fill = async () => {
  const journal = await openJournal(directory)
  let appended = 0
  const appendAll = () => {
    try {
      for (; appended < 10_000; appended++)
        journal.append("story", `record ${appended}`, [], "x".repeat(1_000))
      return "never full"
    } catch (error) {
      return error instanceof JournalFailed ? error._tag : String(error)
    }
  }
  const failed = appendAll()
  const kept = journal.read(10_000).map((record) => record.what)
  const first = journal.read(1)
  for (const record of first) journal.forget(record.id)
  const left = journal.read(10_000).length
  for (const record of journal.read(10_000)) journal.forget(record.id)
  const size = journal.size()
  const before = appended
  appendAll()
  say({ failed, before, kept, left, size, again: appended > before, next: journal.read(1)[0]?.what })
  journal.close()
}

switch (what) {
  case "append":
    await append()
    break
  case "look":
    await look()
    break
  case "fill":
    await fill()
}
