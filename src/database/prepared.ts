// Statements that are run again and again are prepared, once on each connection: our longest take PostgreSQL longer to
// plan than to run, and their text is longer than all that they are about.

import type { PoolClient, QueryArrayResult, QueryResult } from "pg"

type Run = (text: string, values: Array<unknown>) => Promise<QueryResult | QueryArrayResult>

// What is asked by hand has any number of forms, and each prepared one is kept on each connection.
const mostPrepared = 200
const mostSeenOnce = 1_000
const shortest = 100

// No such statement, or one of that name already: a pooler has put another connection under ours. Or its result has
// changed with a migration. Whichever it is, nothing was run.
const unprepared = new Set(["26000", "42P05", "0A000"])

const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error ? String(error.code) : ""

/** Prepares what a pool's connections run, each statement from its second time on. */
export class Prepared {
  private readonly names = new Map<string, string>()
  private readonly seenOnce = new Set<string>()
  private pooled = false
  private made = 0

  /** To be called for each new connection. */
  adopt(client: PoolClient): void {
    const query = client.query.bind(client) as (...given: ReadonlyArray<unknown>) => Promise<QueryResult>
    const run: Run = async (text, values) => {
      // Within a transaction nothing could be tried again.
      const name = client.getTransactionStatus() === "T" ? undefined : this.nameOf(text)
      if (name === undefined) return query(text, values)
      try {
        return await query({ name, text, values })
      } catch (error) {
        if (!unprepared.has(codeOf(error))) throw error
        this.names.delete(text)
        // Behind such a pooler the next would fail, too.
        this.pooled ||= codeOf(error) !== "0A000"
        return query(text, values)
      }
    }
    const either = (...given: ReadonlyArray<unknown>) =>
      given.length === 2 && typeof given[0] === "string" && Array.isArray(given[1])
        ? run(given[0], given[1])
        : query(...given)
    Object.assign(client, { query: either })
  }

  private nameOf(text: string): string | undefined {
    if (this.pooled || text.length < shortest) return undefined
    const name = this.names.get(text)
    if (name !== undefined) return name
    if (!this.seenOnce.has(text)) {
      if (this.seenOnce.size < mostSeenOnce) this.seenOnce.add(text)
      return undefined
    }
    if (this.names.size >= mostPrepared) return undefined
    const made = `switchhook_${this.made++}`
    this.names.set(text, made)
    return made
  }
}
