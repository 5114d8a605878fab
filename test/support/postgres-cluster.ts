// One real PostgreSQL for a whole test run.

import type { TestProject } from "vitest/node"
import { startCluster } from "./cluster.ts"

declare module "vitest" {
  export interface ProvidedContext {
    /** URL of the cluster's maintenance database. */
    postgres: string
  }
}

export default async ({ provide }: TestProject) => {
  const cluster = await startCluster()
  provide("postgres", cluster.url)
  return cluster.stop
}
