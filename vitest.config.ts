import { availableParallelism } from "node:os"
import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    // CI asks once for a test that fails, to see that the run then fails.
    include:
      process.env["FAIL_ON_PURPOSE"] === undefined ? ["test/**/*.test.ts"] : ["test/support/failing.ts"],
    globalSetup: ["test/support/postgres-cluster.ts", "test/support/scratch.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    // Most tests wait for a service more than they work.
    maxWorkers: Math.max(3, availableParallelism()),
  },
})
