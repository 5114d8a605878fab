// What was put last, in bounded memory.

/**
 * Keeps the last `most` values that were put, or as few as half of them: an older half goes at once. To let go of one
 * value for each that comes costs more, for a Map walks over all that it has let go of to find its oldest.
 */
export class Bounded<Value> {
  private readonly half: number
  private newer = new Map<string, Value>()
  private older = new Map<string, Value>()

  /** `most` is 2 at least. */
  constructor(most: number) {
    this.half = Math.floor(most / 2)
  }

  has(key: string): boolean {
    return this.newer.has(key) || this.older.has(key)
  }

  get(key: string): Value | undefined {
    return this.newer.get(key) ?? this.older.get(key)
  }

  /** Counts as put last, also where it was there already. */
  put(key: string, value: Value): void {
    if (this.newer.size >= this.half && !this.newer.has(key)) {
      this.older = this.newer
      this.newer = new Map()
    }
    this.newer.set(key, value)
  }
}
