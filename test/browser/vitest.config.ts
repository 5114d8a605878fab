import { defineConfig } from "vitest/config"

// For what needs a browser, which `npm test` does without.
export default defineConfig({
  test: {
    include: ["test/browser/*.browser.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    globalSetup: ["test/support/scratch.ts"],
    pool: "forks",
  },
})
