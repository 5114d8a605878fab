// Recorded webhooks, one JSON object a line: `{"at_ms", "answered", "headers", "body"}`.

import { Effect, FileSystem, Option, Schema } from "effect"
import { CommandFailed } from "./run-command.ts"

const Delivery = Schema.fromJsonString(Schema.Struct({ body: Schema.String }))
const decodeDelivery = Schema.decodeUnknownOption(Delivery)

const encoder = new TextEncoder()

/** The bodies of a recording, byte for byte, in the order in which they came. */
export const readRecording = Effect.fnUntraced(function* (path: string) {
  const files = yield* FileSystem.FileSystem
  const text = yield* Effect.mapError(
    files.readFileString(path),
    () => new CommandFailed({ message: `${path} cannot be read.` }),
  )
  const bodies: Array<Uint8Array<ArrayBuffer>> = []
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue
    const delivery = decodeDelivery(line)
    if (Option.isNone(delivery)) {
      const where = `${path}, line ${index + 1}`
      return yield* new CommandFailed({
        message: `${where}: not a recorded delivery, which is one JSON object a line: {"at_ms", "answered", "headers", "body"}.`,
      })
    }
    bodies.push(encoder.encode(delivery.value.body))
  }
  if (bodies.length === 0) return yield* new CommandFailed({ message: `${path} holds no delivery.` })
  return bodies
})
