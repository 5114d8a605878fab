// To be preloaded into the service: `fickleName` is this machine, and while the file exists that `NO_NAMES_FILE` names
// it cannot be resolved.

import dns, { type LookupAddress, type LookupOptions } from "node:dns"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"

/** This module, to be preloaded. */
export const fickleNamesModule: string = fileURLToPath(import.meta.url)

/** The name that comes and goes. */
export const fickleName = "fickle.test"

type Found = (error: Error | null, address?: string | Array<LookupAddress>, family?: number) => void

const file = process.env["NO_NAMES_FILE"]
const lookup = dns.lookup as (name: string, options: LookupOptions, found: Found) => void

// The tests import this module, too, for its names.
if (file !== undefined) {
  const fickle = (name: string, options: LookupOptions, found: Found) => {
    if (name !== fickleName) return lookup(name, options, found)
    if (existsSync(file)) {
      const error = new Error(`getaddrinfo ENOTFOUND ${name}`)
      return found(Object.assign(error, { code: "ENOTFOUND" }))
    }
    if (options.all) return found(null, [{ address: "127.0.0.1", family: 4 }])
    return found(null, "127.0.0.1", 4)
  }
  Object.assign(dns, { lookup: fickle })
}
