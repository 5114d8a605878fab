// To be preloaded into the service: on SIGUSR2 it collects its garbage and says how much is left.

import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

const collector = (): (() => void) => {
  const given = Reflect.get(globalThis, "gc") as (() => void) | undefined
  if (given !== undefined) return given
  setFlagsFromString("--expose-gc")
  return runInNewContext("gc") as () => void
}
const collect = collector()

process.on("SIGUSR2", () => {
  collect()
  const { external, heapUsed, rss } = process.memoryUsage()
  console.log(JSON.stringify({ message: "Memory", heap: heapUsed + external, rss }))
})
