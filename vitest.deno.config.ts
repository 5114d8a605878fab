import { configDefaults, defineConfig, mergeConfig } from "vitest/config"
import onNode from "./vitest.config.ts"

// Deno is tried with what meets it: sockets, processes, files, the drivers and the whole service. What tries the
// commands, which npm runs on Node, or only what the database and other replicas make of facts, is tried on
// Node.
export default mergeConfig(
  onNode,
  defineConfig({
    test: {
      exclude: [
        ...configDefaults.exclude,
        "test/calls/**",
        "test/properties/ledger-model.test.ts",
        "test/routing/routing.test.ts",
        "test/fuzz/**",
        "test/end-to-end/{admin,commands,doctor,fallback-agent,import,provision,prune,walk-through}.test.ts",
        "test/end-to-end/{processes-die,watch}.test.ts",
      ],
    },
  }),
)
