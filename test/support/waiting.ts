// Waiting for something to become true, without guessing how long it takes.

/** Asks every 20 ms until the answer is truthy; fails after `withinMs` with what it waited for. */
export const eventually = async <A>(
  what: string,
  ask: () => A | Promise<A>,
  withinMs = 30_000,
): Promise<NonNullable<A>> => {
  for (let leftMs = withinMs; ; ) {
    const askedAt = performance.now()
    const answer = await ask()
    if (answer) return answer
    if (leftMs <= 0) throw new Error(`waited ${withinMs} ms for: ${what}`)
    await sleep(20)
    // While this process is held up, nobody can wait.
    leftMs -= Math.min(performance.now() - askedAt, 500)
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
