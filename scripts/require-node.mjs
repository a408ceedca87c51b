// Importing this module, before any other, ends the process with one clear line on a Node that is too old.
import { isTooOld, minimumNode } from "./node-version.mjs"

if (isTooOld(process.version)) {
  console.error(
    `coppice: Node ${minimumNode} or newer is needed and this is ${process.version}; `
      + "use the npm scripts (npm start, npm test, npm run check), which run on the Node pinned in node_modules."
  )
  process.exit(1)
}
