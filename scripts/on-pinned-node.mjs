// Importing this module, before any other, makes the workspace ready and then starts the program again on the pinned
// Node if the one it began on is too old.
import { spawnSync } from "node:child_process"
import { isTooOld } from "./node-version.mjs"
import { pinnedNode, setup } from "./setup.mjs"

setup()

if (isTooOld(process.version)) {
  const { status } = spawnSync(pinnedNode, process.argv.slice(1), { stdio: "inherit" })
  process.exit(status === null ? 1 : status)
}
