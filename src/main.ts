// The process of the service: what was compiled by an earlier start is not compiled again, and then everything is loaded.

import * as nodeModule from "node:module"
import { fileURLToPath } from "node:url"

// Beside the packages: whoever could write something else there could as well change the code itself, which is not so
// in a folder for everybody's temporary files. Where nothing can be written, every start is like the first. Deno keeps
// such a cache by itself.
nodeModule.enableCompileCache?.(fileURLToPath(new URL("../node_modules/.cache/compiled", import.meta.url)))

const { run } = await import("./service.ts")
run()
