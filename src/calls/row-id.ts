// The ids of the rows in `calls`.

/**
 * A new id, a UUID of version 7 (RFC 9562): it begins with the time, so the newest calls stand side by side in an index.
 * An id without any order would have PostgreSQL write a page of its own for each call, and again for its attempt.
 */
export const newRowId = (): string => {
  const ms = Date.now().toString(16).padStart(12, "0")
  return `${ms.slice(0, 8)}-${ms.slice(8)}-7${crypto.randomUUID().slice(15)}`
}
