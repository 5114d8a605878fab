// What became of the calls, by what really happened to them and by what the database says.

import type { ClusterDatabase } from "../support/cluster.ts"
import type { Handover, SimCall } from "./world.ts"

/** A call that was not treated as promised. */
export interface Violation {
  readonly what: "duplicated" | "lost" | "row missing"
  readonly call: string
  readonly why: string
}

interface Row {
  readonly sip_call_id: string
  readonly state: string
  readonly status: string
  readonly sent: number
}

// Between a first hand-over that came to nothing and the next LiveKit must have said that the caller was alone.
const isRescue = (earlier: Handover, { aloneAt }: Handover) => aloneAt !== undefined && aloneAt >= earlier.at

const duplicated = (call: SimCall): string | undefined => {
  const again = call.handovers.find((one, place) => {
    const earlier = call.handovers[place - 1]
    return earlier !== undefined && !isRescue(earlier, one)
  })
  return (
    again &&
    `handed over ${call.handovers.length} times: ${call.handovers.map(({ taker }) => taker).join(", ")}`
  )
}

const lost = (call: SimCall, patientMs: number): string | undefined => {
  // While no replica runs nobody can know of a call.
  if (!call.heard) return undefined
  if (call.answeredAt !== undefined || call.removed || call.plan.patienceMs < patientMs) return undefined
  const got = call.handovers.map(({ taker }) => taker).join(", ") || "nobody"
  return `rang for ${Math.round(call.plan.patienceMs / 1000)} s and was answered by nobody; handed over to ${got}`
}

const ended = new Set(["completed", "missed", "failed"])

const rowFault = (call: SimCall, row: Row | undefined): string | undefined => {
  if (row === undefined) return call.heard ? "there is no row" : undefined
  if (row.state === "handing") return "its hand-over has not ended"
  if (!ended.has(row.status)) return `its status is still ${row.status} (${row.state})`
  if (row.sent < call.handovers.length)
    return `${call.handovers.length} hand-overs, ${row.sent} of them in the log`
  if (call.eventsLost || call.touchAndGo) return undefined
  const status = call.answeredAt === undefined ? "missed" : "completed"
  return row.status === status ? undefined : `its status is ${row.status}, and the call was ${status}`
}

const rowsOf = async (database: ClusterDatabase) =>
  new Map(
    (
      await database.query<Row>(`
        SELECT c.sip_call_id, c.state, c.status,
          (SELECT count(*)::integer FROM dispatch_attempts d
            WHERE d.call_id = c.id AND d.outcome IS DISTINCT FROM 'not-sent') AS sent
        FROM calls c WHERE c.sip_call_id <> ''`)
    ).map((row) => [row.sip_call_id, row]),
  )

/** Everything that is wrong with the rows now. */
export const rowViolations = async (
  calls: ReadonlyArray<SimCall>,
  database: ClusterDatabase,
): Promise<ReadonlyArray<Violation>> => {
  const rows = await rowsOf(database)
  return calls.flatMap((call) => {
    const why = rowFault(call, rows.get(call.id))
    return why === undefined ? [] : [{ what: "row missing" as const, call: call.id, why }]
  })
}

/** Calls that two have got, and calls that nobody has; `patientMs`: whoever waits so long must be answered. */
export const callViolations = (calls: ReadonlyArray<SimCall>, patientMs: number): ReadonlyArray<Violation> =>
  calls.flatMap((call) => {
    const [twice, never] = [duplicated(call), lost(call, patientMs)]
    return [
      ...(twice === undefined ? [] : [{ what: "duplicated" as const, call: call.id, why: twice }]),
      ...(never === undefined ? [] : [{ what: "lost" as const, call: call.id, why: never }]),
    ]
  })

/** From the first try to deliver a call until somebody had it, in ms: the longest of all. */
export const worstLatency = (calls: ReadonlyArray<SimCall>): number =>
  Math.max(
    0,
    ...calls.flatMap(({ announcedAt, handovers: [first] }) =>
      first === undefined || announcedAt === undefined ? [] : [first.at - announcedAt],
    ),
  )
