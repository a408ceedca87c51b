// Completes package-lock.json: `npm run lockfile` after a change of dependencies.
//
// Programs in native code come as one optional package per platform. npm leaves those out of the lockfile that it could
// not fetch while it resolved, and then `npm ci` fails, here and on those platforms: the lockfile must name every one.
// Their exact versions stand in the package that wants them, their platform in their names; only a checksum is missing.
import "./require-node.mjs"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { isMain } from "./main.mjs"
import { workspaceRoot } from "./tsc.mjs"

/**
 * A package as the lockfile describes it, as far as it is read here.
 *
 * @typedef {{
 *   version?: string,
 *   dev?: boolean,
 *   optional?: boolean,
 *   os?: ReadonlyArray<string>,
 *   cpu?: ReadonlyArray<string>,
 *   libc?: ReadonlyArray<string>,
 *   optionalDependencies?: Record<string, string>
 * }} Locked
 */

/**
 * The optional packages that a lockfile does not name though one of its packages wants them, as entries to be added.
 *
 * @param {Record<string, Locked>} packages
 * @returns {Record<string, Locked>}
 */
export const missingEntries = (packages) => {
  /** @type {Record<string, Locked>} */
  const missing = {}
  for (const [path, { dev, optionalDependencies }] of Object.entries(packages)) {
    for (const [name, version] of Object.entries(optionalDependencies ?? {})) {
      if (places(path, name).some((place) => place in packages)) continue
      missing[`node_modules/${name}`] = sorted(
        { ...platformOf(name), ...(dev ? { dev } : {}), optional: true },
        { version }
      )
    }
  }
  return missing
}

/**
 * Where a package looks for another, from the nearest to the root.
 *
 * @param {string} from
 * @param {string} name
 */
const places = (from, name) => {
  const parts = from.split("/")
  return parts
    .map((_, depth) => [...parts.slice(0, parts.length - depth), "node_modules", name].join("/"))
    .concat(`node_modules/${name}`)
}

/**
 * The platform that a name such as `@oxfmt/binding-linux-arm64-musl` names.
 *
 * @param {string} name
 */
const platformOf = (name) => {
  const words = name.split(/[-/]/)
  const os = words.filter((word) => systems.has(word))
  const cpu = words.filter((word) => processors.has(word))
  const libc = words.flatMap((word) => (word.startsWith("gnu") ? ["glibc"] : word.startsWith("musl") ? ["musl"] : []))
  if (os.length !== 1 || cpu.length !== 1) throw new Error(`${name}: its name does not say for which platform it is`)
  return os[0] === "linux" && libc.length > 0 ? { os, cpu, libc } : { os, cpu }
}

/**
 * The fields of `first`, then those of `fields` in npm's order.
 *
 * @template {object} A
 * @template {object} B
 * @param {A} fields
 * @param {B} [first]
 * @returns {A & B}
 */
const sorted = (fields, first) => {
  const entries = Object.entries(fields).toSorted(([a], [b]) => a.localeCompare(b, "en"))
  return /** @type {A & B} */ ({ ...first, ...Object.fromEntries(entries) })
}

const systems = new Set([
  "aix",
  "android",
  "darwin",
  "freebsd",
  "linux",
  "netbsd",
  "openbsd",
  "openharmony",
  "sunos",
  "win32"
])
const processors = new Set([
  "arm",
  "arm64",
  "ia32",
  "loong64",
  "mips64el",
  "ppc64",
  "riscv64",
  "s390x",
  "wasm32",
  "x64"
])

if (isMain(import.meta.url)) {
  const file = join(workspaceRoot, "package-lock.json")
  const lock = JSON.parse(readFileSync(file, "utf8"))
  const missing = missingEntries(lock.packages)
  const packages = sorted({ ...lock.packages, ...missing })
  writeFileSync(file, `${JSON.stringify({ ...lock, packages }, null, 2)}\n`)
  console.log(`${Object.keys(missing).length} packages added to package-lock.json`)
}
