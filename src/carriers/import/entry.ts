// What a file says of phone numbers, whatever its format: texts as they stand there, each with its line.

import { Data } from "effect"
import type { NumberType } from "../../routing/number-type.ts"

/** What a number is assigned to, in the order in which a person reads it. */
export const fieldNames = ["carrier", "tenant", "campaign", "target"] as const
export type FieldName = (typeof fieldNames)[number]

/** Texts by field: `undefined` where the file says nothing, the empty text where it says that there is none. */
export type Fields = Readonly<Record<FieldName, string | undefined>>

/** One number, as the file has it. */
export interface Entry {
  readonly _tag: "Entry"
  readonly line: number
  readonly number: string
  readonly fields: Fields
  /** What kind of number it is, where the file says so. */
  readonly type: NumberType | undefined
}

/** A line that cannot be taken, and what a person can do about it. */
export interface BadLine {
  readonly _tag: "BadLine"
  readonly line: number
  /** What stands there, or as much of it as names it. */
  readonly text: string
  readonly problem: string
  readonly remedy: string
}

/** A number that is left out for a reason, with nothing being wrong. */
export interface LeftOut {
  readonly _tag: "LeftOut"
  readonly line: number
  readonly number: string
  readonly why: string
}

/** Something about the file as a whole that a person should know. */
export interface Note {
  readonly _tag: "Note"
  readonly text: string
}

export type Item = Entry | BadLine | LeftOut | Note

/** Nothing of the file can be used; the message says why and what to do. */
export class FileRefused extends Data.TaggedError("FileRefused")<{ readonly message: string }> {}

// Nothing that a file brings along may move the cursor of the terminal on which it is shown.
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu
const longestShown = 80

/** A text with nothing in it that a terminal would obey. */
export const printable = (text: string): string =>
  text.replace(unprintable, (char) => `\\u${char.codePointAt(0)!.toString(16).padStart(4, "0")}`)

/** A text from the file, for a person. */
export const shown = (text: string): string =>
  printable(JSON.stringify(text.length > longestShown ? `${text.slice(0, longestShown)}…` : text))

export const badLine = (line: number, text: string, problem: string, remedy: string): BadLine => ({
  _tag: "BadLine",
  line,
  text: text.slice(0, longestShown),
  problem,
  remedy,
})
