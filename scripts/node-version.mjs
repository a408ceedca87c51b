// Which Node runs the workspace: `engines` of package.json says it, this module reads and applies it.
// Written for Nodes far older than that, because those are the ones that must be able to read it.
import { readFileSync } from "node:fs"

const { engines } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))

/** The oldest Node that runs the workspace, as `"22.19"`. */
export const minimumNode = engines.node.replace(/[^\d.]/g, "")

/** Whether a version such as `"v20.20.2"` is older than the oldest Node that runs the workspace. */
export const isTooOld = (version) => {
  const have = version.replace(/^v/, "").split(".").map(Number)
  const need = minimumNode.split(".").map(Number)
  for (let i = 0; i < need.length; i++) {
    if (have[i] !== need[i]) return have[i] < need[i]
  }
  return false
}

/** The one line that a person on an old Node reads. */
export const tooOldMessage = (version) =>
  "coppice: Node "
  + minimumNode
  + " or newer is needed and this is "
  + version
  + "; start it through an npm script (npm start, npm test, npm run check), which uses the Node pinned in node_modules."

/** Prints the line and ends the process when it runs on a Node that is too old. */
export const requireNode = () => {
  if (!isTooOld(process.version)) return
  console.error(tooOldMessage(process.version))
  process.exit(1)
}
