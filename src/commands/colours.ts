// The few colours of the commands' output, on a terminal only.

import { paint } from "../logging.ts"

export const green = (text: string): string => paint(32, text)
export const yellow = (text: string): string => paint(33, text)
export const red = (text: string): string => paint(31, text)
export const dim = (text: string): string => paint(90, text)
export const bold = (text: string): string => paint(1, text)
