// Runs all checks of the workspace, or those named on the command line (`npm run check -- types lint`); exits with 1
// when any of them failed.
import "./on-pinned-node.mjs"
import { checks, runChecks } from "./checks.mjs"

const names = process.argv.slice(2)
const unknown = names.filter((name) => !Object.hasOwn(checks, name))

if (unknown.length > 0) {
  console.error(`coppice: no check is called ${unknown.join(", ")}; there are ${Object.keys(checks).join(", ")}.`)
  process.exitCode = 1
} else {
  const failed = await runChecks(names.length > 0 ? names : Object.keys(checks))
  if (failed.length > 0) console.log(`\nfailed: ${failed.join(", ")}`)
  process.exitCode = failed.length > 0 ? 1 : 0
}
