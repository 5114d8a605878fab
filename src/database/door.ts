// The door of the embedded database: a command that finds it open in another process, most likely the service, asks
// through the socket that is its lock. A line of JSON each way, in turn.

import { connect, type Socket } from "node:net"
import { createInterface } from "node:readline"
import type { PGlite, Transaction } from "@electric-sql/pglite"
import {
  type CompiledQuery,
  type DatabaseConnection,
  type Driver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type QueryResult,
} from "kysely"
import type { CommandEngine, MigrationSession } from "./engine.ts"
import type { Tables } from "./schema.ts"
import { decode, encode } from "./wire.ts"

// A command that is stopped in the middle of its transaction must not stop the calls with it.
const silenceMs = 10_000

const answerWithinMs = 60_000

interface Request {
  /** `session`: from here on all of this connection is one transaction, and nobody else's queries run. */
  readonly do: "query" | "session" | "script"
  readonly sql?: string
  readonly parameters?: ReadonlyArray<unknown>
}

type Reply = { readonly rows: ReadonlyArray<object> } | { readonly error: Record<string, unknown> }

// ---- Lines

const lineOf = (value: Request | Reply) => `${encode(value)}\n`

const linesOf = (socket: Socket) => createInterface({ input: socket })[Symbol.asyncIterator]()

const within = async <A>(ms: number, waiting: Promise<A>, late: string): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const tooLate = new Promise<never>((_, fail) => {
    timer = setTimeout(() => fail(new Error(late)), ms)
  })
  return Promise.race([waiting, tooLate]).finally(() => clearTimeout(timer))
}

// ---- Inside

const told = ["message", "code", "detail", "constraint", "severity"] as const

const errorOf = (error: unknown): Reply => {
  const source = error as Record<string, unknown>
  return { error: Object.fromEntries(told.map((name) => [name, source[name]])) }
}

const perform = async (database: PGlite | Transaction, request: Request): Promise<Reply> => {
  try {
    const { sql = "", parameters } = request
    if (request.do === "query")
      return { rows: (await database.query<object>(sql, [...(parameters ?? [])])).rows }
    await database.exec(sql)
    return { rows: [] }
  } catch (error) {
    return errorOf(error)
  }
}

const nextRequest = async (lines: AsyncIterator<string>, ms: number): Promise<Request | undefined> => {
  const line = await within(ms, lines.next(), "nothing more was asked")
  return line.done === true ? undefined : (decode(line.value) as Request)
}

const serveSession = (database: PGlite, socket: Socket, lines: AsyncIterator<string>) =>
  // Exclusive: everybody else's queries wait for its end.
  database.transaction(async (transaction) => {
    socket.write(lineOf({ rows: [] }))
    try {
      for (
        let request = await nextRequest(lines, silenceMs);
        request !== undefined;
        request = await nextRequest(lines, silenceMs)
      ) {
        socket.write(lineOf(await perform(transaction, request)))
      }
    } finally {
      // What the session wanted to keep it has committed itself.
      await transaction.rollback()
    }
  })

const longestTimeout = 2 ** 31 - 1

/** Answers whoever has connected until they leave; what they left unfinished is rolled back. */
export const serveDoor = async (socket: Socket, opened: Promise<PGlite>): Promise<void> => {
  socket.unref()
  socket.on("error", () => {})
  try {
    const lines = linesOf(socket)
    const database = await opened
    for (
      let request = await nextRequest(lines, longestTimeout);
      request !== undefined;
      request = await nextRequest(lines, longestTimeout)
    ) {
      if (request.do === "session") return await serveSession(database, socket, lines)
      socket.write(lineOf(await perform(database, request)))
    }
  } catch {
    // Whoever asked hears it by the end of the connection.
  } finally {
    socket.destroy()
  }
}

// ---- Outside

const gone = () =>
  Object.assign(new Error("the process that has the embedded database open has closed the connection"), {
    code: "ECONNRESET",
  })

const ended: IteratorResult<string> = { done: true, value: undefined }

/** Asks, one thing at a time. */
const makeAsker = async (path: string) => {
  const socket = await new Promise<Socket>((settle, fail) => {
    const connecting = connect(path)
    connecting.once("connect", () => settle(connecting))
    connecting.once("error", fail)
  })
  socket.on("error", () => {})
  const lines = linesOf(socket)
  let last: Promise<unknown> = Promise.resolve()
  const askNow = async (request: Request) => {
    if (socket.destroyed) throw gone()
    socket.write(lineOf(request))
    const late = `the process that has the embedded database open does not answer within ${answerWithinMs / 1_000} s`
    const line = await within(
      answerWithinMs,
      lines.next().catch(() => ended),
      late,
    )
    if (line.done === true) throw gone()
    const reply = decode(line.value) as Reply
    if ("error" in reply) throw Object.assign(new Error(), reply.error)
    return reply.rows
  }
  return {
    ask: (request: Request) => {
      const asked = last.then(() => askNow(request))
      last = asked.catch(() => {})
      return asked
    },
    close: async () => {
      await last
      socket.destroy()
    },
  }
}

type Asker = Awaited<ReturnType<typeof makeAsker>>

const noTransaction = async () => {
  throw new Error("A transaction needs a session of its own")
}

const driverOf = (asker: Asker): Driver => {
  const connection: DatabaseConnection = {
    executeQuery: async <R>({ parameters, sql }: CompiledQuery): Promise<QueryResult<R>> => ({
      rows: (await asker.ask({ do: "query", sql, parameters })) as Array<R>,
    }),
    streamQuery: async function* () {
      throw new Error("Streaming is not supported by the embedded database")
    },
  }
  return {
    init: async () => {},
    acquireConnection: async () => connection,
    beginTransaction: noTransaction,
    commitTransaction: noTransaction,
    rollbackTransaction: noTransaction,
    releaseConnection: async () => {},
    destroy: () => asker.close(),
  }
}

/** The embedded database of `place`, asked through the socket of the process that has it open. */
export const throughDoor = async (path: string, place: string): Promise<CommandEngine> => {
  const asker = await makeAsker(path)
  const kysely = new Kysely<Tables>({
    dialect: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => driverOf(asker),
      createIntrospector: (database) => new PostgresIntrospector(database),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
  })
  // So that it is closed with the rest, asked or not.
  await kysely.executeQuery({ sql: "SELECT 1", parameters: [] } as unknown as CompiledQuery)
  return {
    kind: "embedded",
    place,
    kysely,
    migrationSession: async (): Promise<MigrationSession> => {
      const session = await makeAsker(path)
      await session.ask({ do: "session" })
      return {
        script: (sql) => session.ask({ do: "script", sql }),
        names: async (sql) => {
          const rows = await session.ask({ do: "query", sql })
          return rows.map((row) => String((row as { name: unknown }).name))
        },
        close: session.close,
      }
    },
    close: () => kysely.destroy(),
  }
}
