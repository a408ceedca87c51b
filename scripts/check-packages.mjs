// Checks the packages as their users get them: builds and packs every package that is not private, looks at the tarballs
// with publint and attw, then imports each public module from a folder where the tarballs are installed, without the
// condition that leads to the sources. It works in a temporary folder that is removed at the end.
import "./require-node.mjs"
import { spawnSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join, relative, sep } from "node:path"
import { publint } from "publint"
import { formatMessage } from "publint/utils"
import { filesBelow } from "./source.mjs"
import { workspaceRoot } from "./tsc.mjs"

/**
 * A package that is published; `modules` are its public modules under the names that users import.
 *
 * @typedef {{ name: string, folder: string, modules: ReadonlyArray<string> }} Package
 */

/** @param {string} folder an empty folder to work in */
const checkPackages = async (folder) => {
  const stage = join(folder, "stage")
  const consumer = join(folder, "consumer")
  copyWorkspace(stage)
  linkDependencies(join(consumer, "node_modules"))
  const packages = publicPackages(stage)
  const problems = []
  for (const one of packages) {
    const tarball = pack(one, folder)
    problems.push(...(typeof tarball === "string" ? await inspect(one, tarball, consumer) : tarball.problems))
  }
  problems.push(...(problems.length > 0 ? [] : unimportable(packages, consumer)))
  return { packages, problems }
}

/**
 * Copies what a build needs, so that it starts without the remains of earlier ones.
 *
 * @param {string} stage
 */
const copyWorkspace = (stage) => {
  linkDependencies(join(stage, "node_modules"))
  for (const name of readdirSync(join(workspaceRoot, "packages"))) {
    const copy = join(stage, "packages", name)
    cpSync(join(workspaceRoot, "packages", name), copy, {
      recursive: true,
      filter: (file) => !notCopied.has(basename(file))
    })
    link(copy, join(stage, "node_modules", "@coppice", name))
  }
  for (const file of ["package.json", "tsconfig.base.json"]) cpSync(join(workspaceRoot, file), join(stage, file))
}

const notCopied = new Set(["node_modules", "dist", "test", ".data"])

/** @param {string} modules a folder to be called node_modules */
const linkDependencies = (modules) => {
  mkdirSync(join(modules, "@coppice"), { recursive: true })
  for (const name of readdirSync(join(workspaceRoot, "node_modules"))) {
    if (name === "@coppice" || name.startsWith(".")) continue
    link(join(workspaceRoot, "node_modules", name), join(modules, name))
  }
}

/**
 * @param {string} target
 * @param {string} path
 */
const link = (target, path) => symlinkSync(target, path, "junction")

/**
 * @param {string} stage
 * @returns {Array<Package>}
 */
const publicPackages = (stage) =>
  readdirSync(join(stage, "packages")).flatMap((directory) => {
    const folder = join(stage, "packages", directory)
    const { name, private: isPrivate } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"))
    if (isPrivate === true) return []
    const modules = filesBelow(join(folder, "src"), /\.ts$/)
      .map((file) => relative(join(folder, "src"), file).split(sep).join("/").slice(0, -3))
      .filter((module) => !module.startsWith("internal/"))
      .map((module) => (module === "index" ? name : `${name}/${module}`))
    return [{ name, folder, modules }]
  })

/**
 * Builds a package and returns its tarball, or what went wrong.
 *
 * @param {Package} one
 * @param {string} folder
 * @returns {string | { problems: Array<string> }}
 */
const pack = ({ name, folder: source }, folder) => {
  const build = runNode([binOf("typescript"), "-b", source])
  if (build !== undefined) return { problems: [`${name} does not build:\n${build}`] }
  const destination = join(folder, "tarballs", basename(source))
  mkdirSync(destination, { recursive: true })
  const npm = process.env["npm_execpath"]
  const args = ["pack", "--silent", "--pack-destination", destination]
  const packing = npm === undefined ? run("npm", args, source) : runNode([npm, ...args], source)
  const [tarball] = readdirSync(destination)
  return tarball === undefined
    ? { problems: [`${name} cannot be packed:\n${packing ?? "npm made no tarball"}`] }
    : join(destination, tarball)
}

/**
 * Installs a tarball for the consumer and looks at what is in it.
 *
 * @param {Package} one
 * @param {string} tarball
 * @param {string} consumer
 */
const inspect = async ({ name, modules }, tarball, consumer) => {
  const installed = join(consumer, "node_modules", name)
  mkdirSync(installed, { recursive: true })
  const unpacking = run("tar", ["-xzf", tarball, "-C", installed, "--strip-components=1"], consumer)
  if (unpacking !== undefined) return [`${name} cannot be unpacked:\n${unpacking}`]
  const missing = ["LICENSE", "dist/index.js", "src/index.ts"].filter((file) => !existsSync(join(installed, file)))
  const { messages, pkg } = await publint({ pkgDir: installed, pack: false, strict: true })
  const entries = modules.map((module) => (module === name ? "." : `.${module.slice(name.length)}`))
  const types = runNode([
    binOf("@arethetypeswrong/cli", "attw"),
    tarball,
    "--profile",
    "esm-only",
    "--format",
    "ascii",
    "--no-emoji",
    "--no-definitely-typed",
    "--entrypoints",
    ...entries
  ])
  return [
    ...missing.map((file) => `${name}: the tarball lacks ${file}`),
    ...messages.map((message) => `${name}: publint: ${formatMessage(message, pkg, { color: false }) ?? message.code}`),
    ...(types === undefined ? [] : [`${name}: attw:\n${types}`])
  ]
}

/**
 * @param {ReadonlyArray<Package>} packages
 * @param {string} consumer
 */
const unimportable = (packages, consumer) => {
  const program = packages.flatMap(({ modules }) => modules).map((module) => `await import("${module}")`)
  const failure = runNode(["--input-type=module", "--eval", program.join("\n")], consumer)
  return failure === undefined ? [] : [`a packed module cannot be imported:\n${failure}`]
}

/**
 * The program that an installed package declares.
 *
 * @param {string} name
 * @param {string} [program]
 */
const binOf = (name, program = "tsc") => {
  const folder = join(workspaceRoot, "node_modules", name)
  return join(folder, JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).bin[program])
}

/**
 * @param {ReadonlyArray<string>} args
 * @param {string} [cwd]
 */
const runNode = (args, cwd = workspaceRoot) => run(process.execPath, args, cwd)

/**
 * Runs a program and returns its output when it fails.
 *
 * @param {string} command
 * @param {ReadonlyArray<string>} args
 * @param {string} cwd
 */
const run = (command, args, cwd) => {
  const { error, status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    shell: process.platform === "win32" && command === "npm"
  })
  if (error !== undefined) throw error
  return status === 0 ? undefined : `${stdout}${stderr}`.trimEnd()
}

const folder = mkdtempSync(join(tmpdir(), "coppice-packages-"))
try {
  const { packages, problems } = await checkPackages(folder)
  for (const problem of problems) console.error(problem.replaceAll(/\S*coppice-packages-[^/\\]+[/\\]stage[/\\]/g, ""))
  console.log(`${packages.map(({ name }) => name).join(", ")}: ${problems.length} problems`)
  process.exitCode = problems.length > 0 ? 1 : 0
} finally {
  rmSync(folder, { recursive: true, force: true })
}
