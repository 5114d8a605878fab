// `npm run import-numbers` as a person runs it: a file, a process, an exit code, and what the database has then.

import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import pg from "pg"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  databaseKinds,
  makeDatabase,
  makeEmbeddedDatabase,
  makePostgresDatabase,
  type PostgresDatabase,
  type TestDatabase,
} from "../support/databases.ts"
import { ownRuntime, type Runtime, runtimes, start } from "../support/processes.ts"
import { startService } from "../support/service.ts"

let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "switchhook-import-"))
})
afterAll(() => rm(directory, { recursive: true, force: true }))

let files = 0
const fileOf = async (content: string | Uint8Array, ending = "csv") => {
  const path = join(directory, `numbers-${files++}.${ending}`)
  await writeFile(path, content)
  return path
}

const run = async (
  name: string,
  args: ReadonlyArray<string>,
  { env }: Pick<TestDatabase, "env">,
  runtime: Runtime = ownRuntime,
) => {
  const { exited, output } = start(runtime, `commands/${name}.ts`, { args, env, cwd: directory })
  return { code: await exited, output: output() }
}

interface Report {
  readonly applied: boolean
  readonly created: { readonly carriers: ReadonlyArray<string> }
  readonly added: ReadonlyArray<{ readonly number: string }>
  readonly changed: ReadonlyArray<{ readonly number: string; readonly changes: ReadonlyArray<object> }>
  readonly skipped: ReadonlyArray<{ readonly line: number }>
  readonly bad: ReadonlyArray<{ readonly line: number; readonly problem: string }>
}

const importJson = async (database: TestDatabase, ...args: ReadonlyArray<string>) => {
  const { code, output } = await run("import-numbers", [...args, "--json"], database)
  try {
    return { code, report: JSON.parse(output) as Report }
  } catch {
    throw new Error(`not JSON: ${output.slice(0, 2_000)}`)
  }
}

const migrated = async <D extends TestDatabase>(database: D): Promise<D> => {
  const { code, output } = await run("migrate", [], database)
  if (code !== 0) throw new Error(output)
  return database
}

/** A line, and what is wrong with it; undefined where it is good. */
interface Line {
  readonly text: string
  readonly number: string
  readonly problem: RegExp | undefined
}

const tenDigits = (index: number) => String(2_002_000_000 + index * 37)
const area = (digits: string) => [digits.slice(0, 3), digits.slice(3, 6), digits.slice(6)] as const

const forms: ReadonlyArray<(digits: string) => string> = [
  (digits) => `+1${digits}`,
  (digits) => digits,
  (digits) => `1${digits}`,
  (digits) => `"(${area(digits)[0]}) ${area(digits)[1]}-${area(digits)[2]}"`,
  (digits) => `+1 ${area(digits).join(" ")}`,
  (digits) => ` 001-${area(digits).join("-")}`,
]

const badForms: ReadonlyArray<readonly [(good: string, digits: string) => string, RegExp]> = [
  [() => "main line,Telnyx,Acme,Sales,fleet", /letters are no phone number/],
  [() => "+1555,Telnyx,Acme,Sales,fleet", /too short/],
  [(_, digits) => `+1${digits}123456,Telnyx,Acme,Sales,fleet`, /too long/],
  [() => ",Telnyx,Acme,Sales,fleet", /no number/],
  [(good) => `${good},Telnix,Acme,Sales,fleet`, /no carrier "Telnix"/],
  [(good) => `${good},Telnyx,Acne,Sales,fleet`, /no tenant "Acne"/],
  [(good) => `${good},Telnyx,Globex,Support,fleet`, /no campaign "Support" of the tenant "Globex"/],
  [(good) => `${good},Telnyx,,Sales,fleet`, /campaign "Sales" has no tenant/],
  [(good) => `${good},Telnyx,Acme,Sales,both`, /target "both" is neither fleet nor agent/],
  [(good) => `${good},"Telnyx,Acme,Sales,fleet`, /a quote is opened and never closed|text follows/],
]

const fieldsOf = (index: number) =>
  index % 3 === 0 ? "Telnyx,Acme,Sales,fleet" : index % 3 === 1 ? '"Twilio, Inc.",Globex,,agent' : ",,,"

/** One line in a hundred is bad, in each of the ten ways in turn. */
const lineOf = (index: number): Line => {
  const digits = tenDigits(index)
  const good = forms[index % forms.length]!(digits)
  const number = `+1${digits}`
  if (index % 100 !== 99) return { text: `${good},${fieldsOf(index)}`, number, problem: undefined }
  const [text, problem] = badForms[Math.floor(index / 100) % badForms.length]!
  return { text: text(good, digits), number, problem }
}

const header = "number,carrier,tenant,campaign,target"

const linesOf = (count: number) => Array.from({ length: count }, (_, index) => lineOf(index))
const csvOf = (lines: ReadonlyArray<Line>) =>
  `\ufeff${[header, ...lines.map(({ text }) => text)].join("\r\n")}\r\n`

const expectBadLines = (report: Report, lines: ReadonlyArray<Line>) => {
  const expected = lines.flatMap(({ problem }, index) =>
    problem === undefined ? [] : [{ line: index + 2, problem }],
  )
  expect(report.bad.map(({ line }) => line)).toEqual(expected.map(({ line }) => line))
  for (const [index, { problem }] of expected.entries()) expect(report.bad[index]?.problem).toMatch(problem)
}

const seed = `
  INSERT INTO carriers (name) VALUES ('Telnyx'), ('Twilio, Inc.');
  INSERT INTO tenants (name) VALUES ('Acme'), ('Globex');
  INSERT INTO campaigns (tenant_id, name)
    SELECT id, name FROM (VALUES ('Acme', 'Sales'), ('Acme', 'Support'), ('Globex', 'Sales')) AS c (tenant, name)
    JOIN (SELECT id, name AS tenant FROM tenants) t USING (tenant)`

const stored = `
  SELECT d.number, concat_ws(',', coalesce(CASE WHEN c.name ~ ',' THEN '"' || c.name || '"' ELSE c.name END, ''),
    coalesce(t.name, ''), coalesce(m.name, ''), coalesce(d.target, '')) AS fields, d.position, d.raw_number
  FROM dids d LEFT JOIN carriers c ON c.id = d.carrier_id LEFT JOIN tenants t ON t.id = d.tenant_id
  LEFT JOIN campaigns m ON m.id = d.campaign_id ORDER BY d.created_at, d.position, d.number`

interface Stored {
  readonly number: string
  readonly fields: string
  readonly position: number
  readonly raw_number: string
}

// What it shows is the database's and the command's work, which is the same on Deno: once is enough.
describe.runIf(ownRuntime === "node")("100,000 lines, 1 % of them bad in ten ways, on PostgreSQL", () => {
  it("are read, compared and written in time, and the second time there is nothing to do", {
    timeout: 180_000,
  }, async () => {
    const database = await migrated(await makePostgresDatabase())
    try {
      await database.query(seed)
      const lines = linesOf(100_000)
      const file = await fileOf(csvOf(lines))
      const versions = () =>
        database.query<{ topic: string; version: string }>("SELECT * FROM cache_versions ORDER BY topic")

      const dry = await importJson(database, file)
      expect(dry.code).toBe(2)
      expect(dry.report.added).toHaveLength(99_000)
      expectBadLines(dry.report, lines)
      expect(await database.query(stored)).toEqual([])

      const before = await versions()
      const begun = performance.now()
      const first = await importJson(database, file, "--apply")
      // Promised are 30 s, on a machine that does nothing else.
      expect(performance.now() - begun).toBeLessThan(90_000)
      expect(first.code).toBe(2)
      expect(first.report).toEqual({ ...dry.report, applied: true })
      // One statement, so every replica reads its caches once.
      const counts = async () => (await versions()).map(({ topic, version }) => [topic, Number(version)])
      const once = before.map(({ topic, version }) => [
        topic,
        Number(version) + (topic === "system_settings" ? 0 : 1),
      ])
      expect(await counts()).toEqual(once)

      const good = lines.flatMap((line, index) => (line.problem === undefined ? [{ ...line, index }] : []))
      const rows = await database.query<Stored>(stored)
      expect(new Map(rows.map(({ fields, number }) => [number, fields]))).toEqual(
        new Map(good.map(({ index, number }) => [number, fieldsOf(index)])),
      )
      const telnyx = rows
        .filter(({ fields }) => fields.startsWith("Telnyx"))
        .sort((a, b) => a.position - b.position)
      expect(telnyx.map(({ number }) => number)).toEqual(
        good.filter(({ index }) => index % 3 === 0).map(({ number }) => number),
      )
      expect(rows.find(({ number }) => number === `+1${tenDigits(3)}`)?.raw_number).toBe("(200) 200-0111")

      const second = await importJson(database, file, "--apply")
      expect(second.code).toBe(2)
      expect(second.report).toMatchObject({ added: [], changed: [], created: { carriers: [] } })
      expect(second.report.skipped).toHaveLength(99_000)
      expectBadLines(second.report, lines)
      expect(await counts()).toEqual(once)
      expect(await database.query(stored)).toEqual(rows)
    } finally {
      await database.drop()
    }
  })
})

// Starting the embedded database takes each process a second or more.
describe.each(databaseKinds)("an import on the %s database", { timeout: 120_000 }, (kind) => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await migrated(await makeDatabase(kind))
  })
  afterAll(() => database?.drop())

  it("writes the good lines, and nothing the second time", async () => {
    const lines = linesOf(5_000)
    const file = await fileOf(csvOf(lines))
    const names = await fileOf(
      `${header}\n${fieldsOf(0).replace(/^/, "+15550000000,")}\n+15550000001,${fieldsOf(1)}\n`,
    )
    const made = await importJson(database, names, "--create", "--apply")
    expect(made).toMatchObject({
      code: 0,
      report: {
        applied: true,
        created: {
          carriers: ["Telnyx", "Twilio, Inc."],
          tenants: ["Acme", "Globex"],
          campaigns: [{ tenant: "Acme", name: "Sales" }],
        },
      },
    })
    const first = await importJson(database, file, "--apply")
    expect(first.code).toBe(2)
    expect(first.report.added).toHaveLength(4_950)
    expectBadLines(first.report, lines)
    const second = await importJson(database, file, "--apply")
    expect(second.code).toBe(2)
    expect(second.report).toMatchObject({ added: [], changed: [] })
    expect(second.report.skipped).toHaveLength(4_950)
  })

  it("changes what differs, field by field, and shows it first", async () => {
    const good = `${header}\n+12025550101,Bandwidth,Initech,Sales,fleet\n+12025550102,Bandwidth,Initech,Sales,fleet\n`
    await importJson(database, await fileOf(good), "--create", "--apply")
    const file = await fileOf("target,number,carrier\n,202-555-0101,Bandwidth\nagent,2025550102,\n")
    const dry = await run("import-numbers", [file], database)
    expect(dry.code).toBe(0)
    expect(dry.output).toContain('line 2  +12025550101  target: "fleet" → (none)')
    expect(dry.output).toContain(
      'line 3  +12025550102  carrier: "Bandwidth" → (none); target: "fleet" → "agent"',
    )
    expect(dry.output).toContain("A dry run: nothing was written. --apply writes 2 numbers.")
    const again = await importJson(database, file, "--apply")
    expect(again).toMatchObject({ code: 0, report: { added: [], changed: [{}, {}] } })
    const after = await importJson(database, await fileOf(good))
    expect(after.report.changed).toMatchObject([
      { changes: [{ field: "target", was: null, will: "fleet" }] },
      {
        changes: [
          { field: "carrier", was: null, will: "Bandwidth" },
          { field: "target", was: "agent", will: "fleet" },
        ],
      },
    ])
  })

  it("keeps whatever a name says as a name", async () => {
    const nasty = [`Robert'); DROP TABLE dids;--`, 'a "quoted" \\ one', "$$", "ünïcödé 😀", "'"]
    const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`
    const rows = nasty.map((name, index) => `+1303555010${index},${quoted(name)}`)
    const file = await fileOf(["number,carrier", ...rows].join("\n"))
    const first = await importJson(database, file, "--create", "--apply")
    expect(first).toMatchObject({ code: 0, report: { created: { carriers: nasty } } })
    const second = await importJson(database, file)
    expect(second).toMatchObject({ code: 0, report: { added: [], changed: [], created: { carriers: [] } } })
  })

  it("takes Twilio's numbers, under a carrier that is named for all of them", async () => {
    const numbers = [
      { phone_number: "+14045550101", friendly_name: "one", capabilities: { voice: true }, type: "local" },
      { phone_number: "+18775550102", friendly_name: "two", capabilities: { voice: true } },
      { phone_number: "+14045550103", friendly_name: "three", capabilities: { voice: false } },
    ]
    const file = await fileOf(
      JSON.stringify({ incoming_phone_numbers: numbers, next_page_uri: null }),
      "json",
    )
    const { code, report } = await importJson(database, file, "--carrier", "Twilio", "--create", "--apply")
    expect(code).toBe(0)
    expect(report.added).toMatchObject([
      { number: "+14045550101", carrier: "Twilio", tenant: null, type: "local" },
      { number: "+18775550102", carrier: "Twilio", tenant: null, type: "toll-free" },
    ])
    expect(report.skipped).toMatchObject([{ number: "+14045550103", why: "Twilio takes no calls on it" }])
  })
})

describe("an import that cannot be done", () => {
  let database: PostgresDatabase
  beforeAll(async () => {
    database = await migrated(await makePostgresDatabase())
  })
  afterAll(() => database?.drop())

  const expectRefusal = async (file: string, message: string | RegExp, ...args: ReadonlyArray<string>) => {
    const { code, output } = await run("import-numbers", [file, ...args], database)
    expect(output).toMatch(message)
    expect(output).not.toContain("    at ")
    expect(code).toBe(1)
  }

  it("says what is wrong with the file", async () => {
    await expectRefusal(await fileOf("number,colour\n"), /^Line 1 has an unknown column: "colour"/)
    await expectRefusal(
      await fileOf(Buffer.from("number,carrier\n+12025550101,M\xfcller", "latin1")),
      /is not UTF-8/,
    )
    await expectRefusal(await fileOf("number\n", "json"), "is no JSON")
    await expectRefusal(await fileOf("[]"), "Line 1 has an unknown column", "--format", "csv")
    await expectRefusal(directory, /(is no file|Path is not a file)/)
    await expectRefusal(join(directory, "nowhere.csv"), "Path does not exist")
    await expectRefusal(await fileOf("number\n"), "Unrecognized flag: --aply", "--aply")
  })

  it("says so where the database is not there, or not up to date", async () => {
    const file = await fileOf("number\n+12025550101\n")
    const away = await run("import-numbers", [file], {
      env: { DATABASE_URL: "postgres://me:hunter2@127.0.0.1:1/x" },
    })
    expect(away).toMatchObject({
      code: 1,
      output: expect.stringMatching(/cannot be reached: .*ECONNREFUSED/),
    })
    expect(away.output).not.toContain("hunter2")
    const empty = await makePostgresDatabase()
    try {
      const { code, output } = await run("import-numbers", [file, "--apply"], empty)
      expect(code).toBe(1)
      expect(output.trim()).toMatch(
        /^The postgres database .* is not up to date: run npm run migrate first\.$/,
      )
    } finally {
      await empty.drop()
    }
  })

  it("leaves nothing behind where the database refuses one of its numbers", async () => {
    await database.query(`
      CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
      CREATE TRIGGER refuses BEFORE INSERT ON dids FOR EACH ROW WHEN (NEW.number = '+12025550177')
        EXECUTE FUNCTION refuse();`)
    const file = await fileOf("number,carrier\n+12025550176,New\n+12025550177,New\n")
    await expectRefusal(file, /^Nothing was written: not this one/, "--apply", "--create")
    await database.query("DROP TRIGGER refuses ON dids; DROP FUNCTION refuse")
    expect(await database.query("SELECT number FROM dids")).toEqual([])
    expect(await database.query("SELECT name FROM carriers")).toEqual([])
  })

  it("waits 10 s for somebody who is changing the numbers, and no longer", async () => {
    const other = new pg.Client({ connectionString: database.url })
    await other.connect()
    try {
      await other.query("BEGIN; INSERT INTO carriers (name) VALUES ('In the making')")
      const file = await fileOf("number\n+12025550101\n")
      await expectRefusal(file, "another import or change of the numbers is under way", "--apply")
      // Looking is possible meanwhile.
      expect((await run("import-numbers", [file], database)).code).toBe(0)
    } finally {
      await other.end()
    }
  })
})

describe("a number of an archived carrier", () => {
  it("stays with it, until the file names another", async () => {
    const database = await migrated(await makePostgresDatabase())
    try {
      await importJson(database, await fileOf("number,carrier\n+12025550101,Gone"), "--create", "--apply")
      await database.query("UPDATE carriers SET archived_at = now()")
      const file = await fileOf("number,target\n+12025550101,agent")
      const kept = await importJson(database, file, "--create", "--apply")
      expect(kept).toMatchObject({ code: 0, report: { changed: [{}], created: { carriers: [] } } })
      expect(await database.query(stored)).toMatchObject([{ fields: "Gone,,,agent" }])
      const named = await importJson(database, await fileOf("number,carrier\n+12025550101,Gone"), "--create")
      expect(named).toMatchObject({
        code: 2,
        report: { bad: [{ problem: 'the carrier "Gone" is archived' }] },
      })
      const moved = await fileOf("number,carrier\n+12025550101,Other")
      expect(await importJson(database, moved, "--create", "--apply")).toMatchObject({ code: 0 })
      expect(await database.query(stored)).toMatchObject([{ fields: "Other,,,agent" }])
    } finally {
      await database.drop()
    }
  })
})

describe("two imports of one file at once", () => {
  it("add each number once", async () => {
    const database = await migrated(await makePostgresDatabase())
    try {
      const file = await fileOf(csvOf(linesOf(99)))
      const both = await Promise.all([1, 2].map(() => importJson(database, file, "--create", "--apply")))
      expect(both.map(({ code }) => code)).toEqual([0, 0])
      expect(both.map(({ report }) => report.added.length).sort()).toEqual([0, 99])
    } finally {
      await database.drop()
    }
  })
})

describe("where the service has the embedded database open", () => {
  it("goes through the service", async () => {
    const database = await makeEmbeddedDatabase()
    const service = await startService(database.env)
    try {
      const file = await fileOf(csvOf(linesOf(9)))
      const flags = ["--create", "--apply"]
      const added = await importJson(database, file, ...flags)
      expect(added).toMatchObject({ code: 0, report: { applied: true } })
      expect(added.report.added).toHaveLength(9)
      expect((await importJson(database, file, ...flags)).report.added).toEqual([])
    } finally {
      await service.stop()
      await database.drop()
    }
  })
})

describe.each(runtimes)("on %s", (runtime) => {
  it("shows the first of many numbers, every bad line, and no escape of a terminal", async () => {
    const database = await migrated(await makePostgresDatabase())
    try {
      const rows = Array.from({ length: 30 }, (_, index) => `+1202555${1000 + index}`)
      const file = await fileOf(
        ["number", ...rows, ...Array.from({ length: 25 }, () => "\x1b[31mred")].join("\n"),
      )
      const { code, output } = await run("import-numbers", [file], database, runtime)
      expect(code).toBe(2)
      expect(output).toContain("30 to add, 0 to change, 0 to skip, 25 bad")
      expect(output).toContain("… and 10 more: --all shows them")
      expect(output.match(/letters are no phone number/g)).toHaveLength(25)
      expect(output).not.toContain("\x1b")
      const all = await run("import-numbers", [file, "--all"], database, runtime)
      for (const number of rows) expect(all.output).toContain(number)
    } finally {
      await database.drop()
    }
  })
})
