// Values as a line of JSON and back, for another process or a later one: also bytes, times and maps.

// No name of a field of ours has a NUL in it, so that no value can look like one of these.
const bytesTag = "\u0000bytes"
const timeTag = "\u0000time"
const mapTag = "\u0000map"

// Node's reader of lines takes these for ends of lines, too.
const escaped = (json: string) =>
  json.replace(/[\u2028\u2029]/g, (end) => `\\u${end.charCodeAt(0).toString(16)}`)

/** One line of JSON, without an end; a number too large for JSON becomes a text. */
export const encode = (value: unknown): string => {
  const json = JSON.stringify(value, function (this: Record<string, unknown>, key, plain: unknown) {
    // As it was before its `toJSON` was asked.
    const original = this[key]
    if (original instanceof Date) return { [timeTag]: original.getTime() }
    if (original instanceof Uint8Array) return { [bytesTag]: Buffer.from(original).toString("base64") }
    if (original instanceof Map) return { [mapTag]: [...original] }
    return typeof plain === "bigint" ? String(plain) : plain
  })
  return escaped(json)
}

/** What `encode` was given. Throws where it is no JSON. */
export const decode = (line: string): unknown =>
  JSON.parse(line, (_, value: unknown) => {
    if (typeof value !== "object" || value === null) return value
    if (timeTag in value) return new Date(Number(value[timeTag]))
    if (bytesTag in value) return new Uint8Array(Buffer.from(String(value[bytesTag]), "base64"))
    if (mapTag in value) return new Map(value[mapTag] as ReadonlyArray<readonly [unknown, unknown]>)
    return value
  })
