// Waiting for something to become true, without guessing how long it takes.

/** Asks every 20 ms until the answer is truthy; fails after `withinMs` with what it waited for. */
export const eventually = async <A>(
  what: string,
  ask: () => A | Promise<A>,
  withinMs = 30_000,
): Promise<NonNullable<A>> => {
  const deadline = performance.now() + withinMs
  while (true) {
    const answer = await ask()
    if (answer) return answer
    if (performance.now() > deadline) throw new Error(`waited ${withinMs} ms for: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
