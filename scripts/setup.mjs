// Makes the workspace ready: installs what package-lock.json asks for when node_modules lacks it, and checks that a
// Node new enough is there. Says nothing when there is nothing to do.
//
// It runs before anything is installed, on whatever Node the machine has, so it uses Node's own modules and old syntax.
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { delimiter, join, sep } from "node:path"
import { fileURLToPath } from "node:url"
import { isMain } from "./main.mjs"
import { isTooOld, minimumNode } from "./node-version.mjs"

const windows = process.platform === "win32"
const root = fileURLToPath(new URL("..", import.meta.url))

/** Where npm puts the pinned Node. */
export const pinnedNode = join(root, "node_modules", "node", "bin", windows ? "node.exe" : "node")

/**
 * What the package-lock.json of a folder asks for and its node_modules does not hold, as package paths; empty when
 * nothing needs installing. Optional packages may be absent: they are for other platforms.
 *
 * @param {string} folder
 */
export const missingPackages = (folder) => {
  const wanted = readLock(join(folder, "package-lock.json"))
  const installed = readLock(join(folder, "node_modules", ".package-lock.json"))
  return Object.keys(wanted).filter((path) => {
    if (path === "") return false
    const want = wanted[path]
    const have = installed[path]
    if (have === undefined) return !want.optional && !want.devOptional
    return (
      have.version !== want.version || (want.integrity && have.integrity !== want.integrity) || have.link !== want.link
    )
  })
}

/** Installs when needed; ends the process with one clear line when the workspace cannot run afterwards. */
export const setup = () => {
  if (missingPackages(root).length > 0) install()
  if (isTooOld(process.version) && !existsSync(pinnedNode)) {
    fail(
      `Node ${minimumNode} or newer is needed, this is ${process.version}, and npm did not run the install script of the `
        + "pinned `node` package. Run `npm rebuild node --ignore-scripts=false`, or install a newer Node."
    )
  }
}

const install = () => {
  const node = nodeOutsideWorkspace()
  if (windows && node === undefined) fail("packages are missing or out of date: run `npm ci` in a new terminal.")
  console.error("coppice: installing what package-lock.json asks for (npm ci)")
  const npm = process.env["npm_execpath"]
  const [command, before] =
    node !== undefined && npm !== undefined && /npm-cli\.[cm]?js$/.test(npm) ? [node, [npm]] : ["npm", []]
  // Development packages are asked for by name because NODE_ENV=production would leave them out. Warnings are dropped:
  // on an old Node they are all about packages that run on the pinned one.
  const args = before.concat("ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error")
  const { status } = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    shell: windows && command === "npm"
  })
  if (status !== 0) fail("`npm ci` failed; its message stands above. Remove the cause and run this again.")
}

// `npm ci` deletes node_modules first, so it must not run on the Node that lives there.
const nodeOutsideWorkspace = () => {
  if (!isInsideModules(process.execPath)) return process.execPath
  return (process.env["PATH"] || "")
    .split(delimiter)
    .filter((folder) => !isInsideModules(folder))
    .map((folder) => join(folder, windows ? "node.exe" : "node"))
    .find((file) => existsSync(file))
}

/** @param {string} path */
const isInsideModules = (path) => path.split(sep).indexOf("node_modules") >= 0

/** @param {string} file */
const readLock = (file) => {
  try {
    return JSON.parse(readFileSync(file, "utf8")).packages || {}
  } catch (cause) {
    if (/** @type {NodeJS.ErrnoException} */ (cause).code === "ENOENT") return {}
    throw cause
  }
}

/** @param {string} message */
const fail = (message) => {
  console.error(`coppice: ${message}`)
  process.exit(1)
}

if (isMain(import.meta.url)) setup()
