import { describe, expect, it } from "vitest"
import { Bounded } from "../src/bounded.ts"

const put = (most: number, keys: ReadonlyArray<number>) => {
  const bounded = new Bounded<number>(most)
  for (const [place, key] of keys.entries()) bounded.put(String(key), place)
  return bounded
}

const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

const kept = (bounded: Bounded<number>, keys: ReadonlyArray<number>) =>
  keys.filter((key) => bounded.has(String(key)))

describe("a bounded memory", () => {
  it("keeps as many as it may, the last ones, and never fewer than half of them", () => {
    for (let count = 0; count <= 35; count++) {
      const all = upTo(count)
      const left = kept(put(10, all), all)
      expect(left.length).toBeLessThanOrEqual(10)
      expect(left.length).toBeGreaterThanOrEqual(Math.min(count, 5))
      expect(left).toEqual(all.slice(count - left.length))
    }
  })

  it("has the last value of each, be it undefined", () => {
    const bounded = put(10, [1, 2, 1])
    expect(bounded.get("1")).toBe(2)
    expect(bounded.get("2")).toBe(1)
    const nothing = new Bounded<undefined>(4)
    nothing.put("a", undefined)
    expect([nothing.has("a"), nothing.get("a"), nothing.has("b")]).toEqual([true, undefined, false])
  })

  it("takes one that is put again for the last one", () => {
    const bounded = put(4, [0, 1, 2, 0, 3, 4])
    expect(kept(bounded, [0, 1, 2, 3, 4])).toEqual([0, 2, 3, 4])
  })

  it("says the newer of two values, where the older one is still there", () => {
    const bounded = put(4, [0, 1, 2, 0])
    expect(bounded.get("0")).toBe(3)
  })
})
