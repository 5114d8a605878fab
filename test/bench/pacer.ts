// A thread that says when each event of an open loop is due: the thread that sends them sleeps by whole milliseconds.

import { parentPort, workerData } from "node:worker_threads"

/** Milliseconds by a clock that all threads share. */
export const sharedMs = (): number => Number(process.hrtime.bigint()) / 1e6

/** When each event is due, by `sharedMs`. */
export interface Plan {
  readonly dueAt: Float64Array
}

const pace = ({ dueAt }: Plan) => {
  const cell = new Int32Array(new SharedArrayBuffer(4))
  let due = 0
  while (due < dueAt.length) {
    const now = sharedMs()
    const before = due
    while (due < dueAt.length && dueAt[due]! <= now) due++
    if (due > before) parentPort?.postMessage(due)
    if (due < dueAt.length) Atomics.wait(cell, 0, 0, dueAt[due]! - sharedMs())
  }
}

if (parentPort !== null && workerData !== null) pace(workerData as Plan)
