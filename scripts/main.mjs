// Tells whether a module is the program that was started; Node's own `import.meta.main` is newer than the oldest Node
// that runs the workspace.
import { realpathSync } from "node:fs"
import { fileURLToPath } from "node:url"

/** @param {string} url `import.meta.url` of the module that asks */
export const isMain = (url) => process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(url)
