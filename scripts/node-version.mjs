// Which Node runs the workspace: `engines` of package.json says it, this module reads it.
// Written for Nodes far older than that, because those are the ones that must be able to read it.
import { readFileSync } from "node:fs"

const { engines } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))

/**
 * The oldest Node that runs the workspace, as `"22.19"`.
 *
 * @type {string}
 */
export const minimumNode = engines.node.replace(/[^\d.]/g, "")

/**
 * Whether a version such as `"v20.20.2"` is older than that.
 *
 * @param {string} version
 */
export const isTooOld = (version) => {
  const have = version.replace(/^v/, "").split(".").map(Number)
  const need = minimumNode.split(".").map(Number)
  const at = need.findIndex((part, index) => part !== have[index])
  return at >= 0 && !(Number(have[at]) > Number(need[at]))
}
