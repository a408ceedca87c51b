// Compiles every TypeScript fence of README.md, docs/**/*.md, packages/*/README.md, examples/*/README.md and of the
// docstrings in the public files of packages/*/src, with the strict options of the workspace, in one run of the compiler.
//
// - Every ```ts fence is a program of its own. There is no way to leave one out: what is no program is no `ts`.
// - ```ts file=counter.ts gives a fence a name, and other fences of the same page can `import ... from "./counter.ts"`.
// - Code that must not compile says so, and how: `// @expect-error-message: text` above it, as in check-type-errors.mjs.
// - A fence with `expression // => value` is run too, and each such line must be reached and give that value.
import "./require-node.mjs"
import { spawn } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, rmdirSync, writeFileSync } from "node:fs"
import { dirname, join, relative, sep } from "node:path"
import { pathToFileURL } from "node:url"
import { compare } from "./check-type-errors.mjs"
import { fencesOf, withAssertions } from "./fences.mjs"
import { isMain } from "./main.mjs"
import { filesBelow } from "./source.mjs"
import { typeCheck, workspaceRoot } from "./tsc.mjs"

/** @typedef {import("./fences.mjs").Fence} Fence */

/** @typedef {Fence & { source: string, program: string }} Program a fence, the file it is from and the file it became */

const runLimitMillis = 60_000

/**
 * Compiles and runs the fences of files.
 *
 * @param {ReadonlyArray<string>} files absolute paths
 * @returns {Promise<{ fences: number, asserted: number, problems: Array<string> }>}
 */
export const checkDocs = async (files) => {
  const parent = join(workspaceRoot, ".docs-check")
  mkdirSync(parent, { recursive: true })
  const folder = mkdtempSync(join(parent, "run-"))
  try {
    const { programs, problems } = writePrograms(folder, files)
    problems.push(...compile(programs))
    let asserted = 0
    for (const program of problems.length > 0 ? [] : programs) {
      const { text, count } = withAssertions(program.program, readFileSync(program.program, "utf8"))
      const problem = count === 0 ? undefined : await execute(program, text, count)
      if (problem !== undefined) problems.push(problem)
      asserted += count
    }
    return { fences: programs.length, asserted, problems }
  } finally {
    rmSync(folder, { recursive: true, force: true })
    removeWhenEmpty(parent)
  }
}

/**
 * Writes each fence to a file in which its code stands on the same lines as in its source.
 *
 * @param {string} folder
 * @param {ReadonlyArray<string>} files
 */
const writePrograms = (folder, files) => {
  /** @type {Array<string>} */
  const problems = []
  /** @type {Map<string, Program>} */
  const programs = new Map()
  files.forEach((source, index) => {
    for (const fence of fencesOf(source, readFileSync(source, "utf8"))) {
      const name = /^file=([\w-]+\.ts)$/.exec(fence.words)?.[1]
      if (fence.words !== "" && name === undefined) {
        problems.push(`${place(source, fence.line - 1)} \`${fence.words}\` is not known here; every ts fence compiles`)
      }
      const program = join(folder, String(index), name ?? `line-${fence.line}.ts`)
      if (programs.has(program)) problems.push(`${place(source, fence.line - 1)} a second fence called ${name}`)
      programs.set(program, { ...fence, source, program })
      mkdirSync(dirname(program), { recursive: true })
      writeFileSync(program, "\n".repeat(fence.line - 1) + fence.code)
    }
  })
  return { programs: [...programs.values()], problems }
}

/** @param {ReadonlyArray<Program>} programs */
const compile = (programs) => {
  const files = programs.map(({ program }) => program)
  const { unexpected, unmet } = compare(files, typeCheck(files))
  /** @type {(file: string) => Program | undefined} */
  const from = (file) => programs.find(({ program }) => program === file)
  return [
    ...unexpected.map(({ file, line, column, code, message }) => {
      const { source = file, indent = 0 } = from(file) ?? {}
      return `${place(source, line)}:${column + indent} ${code}: ${message}`
    }),
    ...unmet.map(({ file, line, problem }) => `${place(from(file)?.source ?? file, line)} ${problem}`)
  ]
}

/**
 * Runs a program and returns what is wrong with it, if anything.
 *
 * @param {Program} program
 * @param {string} text
 * @param {number} count
 * @returns {Promise<string | undefined>}
 */
const execute = ({ source, line, program }, text, count) => {
  // The first line of a program is blank: a fence begins after the line that opens it.
  const preamble = `import { assertionsOf } from ${JSON.stringify(assertionsUrl)}; const __gives = assertionsOf(${count});`
  const file = `${program.slice(0, -3)}.run.ts`
  writeFileSync(file, preamble + text)
  return new Promise((settle, reject) => {
    const args = ["--conditions=@coppice/source", "--import=tsx", file]
    const child = spawn(process.execPath, args, {
      cwd: workspaceRoot,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: runLimitMillis
    })
    let output = ""
    child.stdout.on("data", (chunk) => (output += chunk))
    child.stderr.on("data", (chunk) => (output += chunk))
    child.on("error", reject)
    child.on("close", (code) => {
      const shown = output.replaceAll(pathToFileURL(file).href, source).replaceAll(file, source)
      settle(code === 0 ? undefined : `${place(source, line)} does not give what it says:\n${shown.trimEnd()}`)
    })
  })
}

const assertionsUrl = new URL("fence-assertions.mjs", import.meta.url).href

/** @param {string} folder */
const removeWhenEmpty = (folder) => {
  try {
    rmdirSync(folder)
  } catch (cause) {
    // Another run of this check is using it.
    if (/** @type {NodeJS.ErrnoException} */ (cause).code !== "ENOTEMPTY") throw cause
  }
}

/**
 * @param {string} file
 * @param {number} line
 */
const place = (file, line) => `${relative(workspaceRoot, file).split(sep).join("/")}:${line}`

const documented = () => [
  ...["README.md"].map((name) => join(workspaceRoot, name)).filter((file) => existsSync(file)),
  ...filesBelow(join(workspaceRoot, "docs"), /\.md$/),
  ...["packages", "examples"].flatMap((group) => filesBelow(join(workspaceRoot, group), /^README\.md$/)),
  ...filesBelow(join(workspaceRoot, "packages"), /\.ts$/).filter(
    (file) => /^packages\/[^/]+\/src\//.test(place(file, 0)) && !/\/internal\//.test(place(file, 0))
  )
]

if (isMain(import.meta.url)) {
  const { fences, asserted, problems } = await checkDocs(documented())
  for (const problem of problems) console.error(problem)
  console.log(`${fences} fences compiled, ${asserted} results asserted, ${problems.length} problems`)
  process.exitCode = problems.length > 0 ? 1 : 0
}
