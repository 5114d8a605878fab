// What somebody may have meant by a name that does not exist.

const distance = (one: string, other: string): number => {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (let i = 1; i <= one.length; i++) {
    const next = [i]
    for (let j = 1; j <= other.length; j++) {
      const replaced = row[j - 1]! + (one[i - 1] === other[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1))
    }
    row = next
  }
  return row[other.length]!
}

// Every unknown name is held against all known ones, which must not take longer than the import itself.
const mostCompared = 2_000
const mostSuggestions = 100

/** The known name that is closest, if any is close enough to be the one that was meant. */
export const closest = (name: string, known: Iterable<string>): string | undefined => {
  const wanted = name.toLowerCase().slice(0, 100)
  let best: { readonly candidate: string; readonly far: number } | undefined
  let compared = 0
  for (const candidate of known) {
    if (compared++ === mostCompared) break
    if (Math.abs(candidate.length - wanted.length) > 2) continue
    const far = distance(wanted, candidate.toLowerCase())
    if (far <= 2 && far < wanted.length / 2 && (best === undefined || far < best.far))
      best = { candidate, far }
  }
  return best?.candidate
}

export type Suggest = (what: string, name: string, known: Iterable<string>) => string | undefined

/** As `closest`, for many names: each is looked for once, and after the first hundred none is any more. */
export const makeSuggest = (): Suggest => {
  const found = new Map<string, string | undefined>()
  return (what, name, known) => {
    const key = JSON.stringify([what, name])
    if (!found.has(key) && found.size < mostSuggestions) found.set(key, closest(name, known))
    return found.get(key)
  }
}
