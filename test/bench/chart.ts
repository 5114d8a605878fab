// The results as an SVG: throughput against the bare handler, a group of bars for each work.

import { type Result, ratioOf } from "./results.ts"
import type { Work } from "./works.ts"

const labelWidth = 230
const barWidth = 430
const noteWidth = 140
const barHeight = 14
const groupGap = 18
const headHeight = 46
const footHeight = 28

// Told apart on white and on black.
const colours: Record<string, string> = {
  bare: "#8a8f98",
  express: "#d9822b",
  fastapi: "#3d9a87",
  node: "#3b6fd4",
  deno: "#8e5bd0",
}

const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

const text = (x: number, y: number, content: string, more = "") =>
  `<text x="${x}" y="${y}" ${more}>${escaped(content)}</text>`

const rect = (x: number, y: number, width: number, colour: string) =>
  `<rect x="${x}" y="${y}" width="${width.toFixed(1)}" height="${barHeight - 3}" rx="2" fill="${colour}"/>`

interface Named {
  readonly name: string
  readonly title: string
}

const legend = (shown: ReadonlyArray<Named>) =>
  shown.map(({ name, title }, n) => {
    const x = 8 + n * 158
    return rect(x, 10, 12, colours[name] ?? "#888") + text(x + 18, 19, title)
  })

const bar = (results: ReadonlyArray<Result>, result: Result, y: number, scale: number) => {
  const ratio = ratioOf(results, result)
  if (result.median === undefined || ratio === undefined)
    return text(labelWidth, y + 9, `${result.contender}: failed`, 'class="note"')
  const length = Math.max(ratio * scale, 1)
  const note = `${ratio.toFixed(2)}× · ${Math.round(result.median.rate).toLocaleString("en-US")}/s`
  return [
    rect(labelWidth, y, length, colours[result.contender] ?? "#888"),
    text(labelWidth + length + 6, y + 9, note, 'class="note"'),
  ].join("")
}

/** The chart, of the works and contenders that were measured. */
export const chart = (
  results: ReadonlyArray<Result>,
  works: ReadonlyArray<Work>,
  contenders: ReadonlyArray<Named>,
  told: string,
): string => {
  const shown = contenders.filter(({ name }) => results.some(({ contender }) => contender === name))
  const highest = Math.max(1, ...results.map((result) => ratioOf(results, result) ?? 0))
  const scale = barWidth / highest
  const parts: Array<string> = []
  let y = headHeight
  for (const work of works) {
    const group = results.filter((result) => result.work === work.name)
    if (group.length === 0) continue
    parts.push(text(8, y + 10, work.title))
    for (const result of group) {
      parts.push(bar(results, result, y, scale))
      y += barHeight
    }
    y += groupGap
  }
  const one = labelWidth + scale
  const width = labelWidth + barWidth + noteWidth
  const height = y + footHeight
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="Throughput against a hand-written handler">`,
    "<style>text{font:12px system-ui,sans-serif;fill:#57606a}.note{font-size:10px}",
    "@media(prefers-color-scheme:dark){text{fill:#b1bac4}}</style>",
    ...legend(shown),
    `<line x1="${one}" x2="${one}" y1="${headHeight - 8}" y2="${y - 8}" stroke="#8a8f98" stroke-dasharray="3 3"/>`,
    ...parts,
    text(8, height - 10, told, 'class="note"'),
    "</svg>",
    "",
  ].join("\n")
}
