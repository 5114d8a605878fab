// Several JSON values one after the other, and on which line each of them begins.

/** Where a value stands in its text; not yet read, and so perhaps no JSON at all. */
export interface Place {
  readonly start: number
  readonly end: number
  readonly line: number
}

const gap = /[\s,]*/y
const bracketOrText = /[[\]{}]|"[^"\\]*(?:\\.[^"\\]*)*"?/gs
const single = /"[^"\\]*(?:\\.[^"\\]*)*"?|[^\s,[\]{}"]+|./sy

const endOfNested = (text: string, start: number): number => {
  let depth = 0
  bracketOrText.lastIndex = start
  for (let found = bracketOrText.exec(text); found !== null; found = bracketOrText.exec(text)) {
    const [token] = found
    if (token === "{" || token === "[") depth++
    else if (token === "}" || token === "]") depth--
    if (depth === 0) return bracketOrText.lastIndex
  }
  return text.length
}

const endOfSingle = (text: string, start: number): number => {
  single.lastIndex = start
  return single.test(text) ? single.lastIndex : text.length
}

const lineBreaks = (text: string, from: number, to: number): number => {
  let count = 0
  for (let at = text.indexOf("\n", from); at >= 0 && at < to; at = text.indexOf("\n", at + 1)) count++
  return count
}

/**
 * The values from a place on, up to the end of the text or of the list that the place is in; commas between them
 * may be missing.
 */
export const valuesFrom = function* (text: string, from: number, line: number): Generator<Place> {
  let at = from
  let current = line
  while (true) {
    gap.lastIndex = at
    gap.test(text)
    const start = gap.lastIndex
    current += lineBreaks(text, at, start)
    if (start === text.length || text[start] === "]") return
    const nested = text[start] === "{" || text[start] === "["
    const end = nested ? endOfNested(text, start) : endOfSingle(text, start)
    yield { start, end, line: current }
    current += lineBreaks(text, start, end)
    at = end
  }
}
