// Checks the wording of the compile errors that users of the library will meet.
//
// Files: packages/*/test/types/*.types.ts and examples/*/test/types/*.types.ts. They are compiled apart from the other
// tests, with the same strict options (except for unused names), and never run. In them, a comment
//
//   // @expect-error-message: Service 'Cache' is not provided
//   Supervisor.layer("App", { children: [web, cache] })
//
// says that the statement (or property, or argument) that begins on the next line does not compile, and that the
// compiler's message contains that text. Several such comments above one another must each be met. White space counts as
// one blank, and a message that spans lines is one text. Everything else in these files must compile, so they
// hold the positive cases too.
import "./require-node.mjs"
import { readFileSync } from "node:fs"
import { relative } from "node:path"
import { isMain } from "./main.mjs"
import { filesBelow, lineFinder, parse, visit } from "./source.mjs"
import { typeCheck, workspaceRoot } from "./tsc.mjs"

/**
 * @typedef {{ file: string, line: number, text: string, from: number, to: number }} Expectation `from` and `to` are the
 * first and the last line on which the error may stand
 */

/** @typedef {import("./tsc.mjs").CompileError} CompileError */

const marker = "@expect-error-message:"

/**
 * Compiles the files and returns what is wrong, one text per finding.
 *
 * @param {ReadonlyArray<string>} files absolute paths
 * @returns {{ expected: number, problems: Array<string> }}
 */
export const checkTypeErrors = (files) => {
  const { expected, unexpected, unmet } = compare(files, typeCheck(files))
  return {
    expected,
    problems: [
      ...unexpected.map(({ file, line, code, message }) => `${place(file, line)} unexpected ${code}: ${message}`),
      ...unmet.map(({ file, line, problem }) => `${place(file, line)} ${problem}`)
    ]
  }
}

/**
 * Holds the errors of a compilation against what its files expect.
 *
 * @param {ReadonlyArray<string>} files
 * @param {ReadonlyArray<CompileError>} errors
 */
export const compare = (files, errors) => {
  const expectations = files.flatMap((file) => expectationsOf(file, readFileSync(file, "utf8")))
  /** @type {Set<Expectation>} */
  const met = new Set()
  const unexpected = errors.filter((error) => {
    const meeting = expectations.filter(
      ({ file, from, to, text }) =>
        text !== ""
        && file === error.file
        && from <= error.line
        && error.line <= to
        && squeeze(error.message).includes(text)
    )
    for (const expectation of meeting) met.add(expectation)
    return meeting.length === 0
  })
  const unmet = expectations
    .filter((expectation) => !met.has(expectation))
    .map(({ file, line, from, text }) => ({
      file,
      line,
      problem: text === "" ? "say what the message contains" : `no error on line ${from} says: ${text}`
    }))
  return { expected: expectations.length, unexpected, unmet }
}

/**
 * @param {string} file
 * @param {string} text
 * @returns {Array<Expectation>}
 */
const expectationsOf = (file, text) => {
  const lines = text.split("\n")
  const lineAt = lineFinder(text)
  const { program, comments } = parse(file, text)
  return comments
    .filter(({ type, value }) => type === "Line" && value.trim().startsWith(marker))
    .map(({ start, value }) => {
      const line = lineAt(start)
      let from = line + 1
      while (/^\s*(\/\/|$)/.test(lines[from - 1] ?? "x")) from++
      let to = from
      visit(program, (node) => {
        if (node.type !== "Program" && lineAt(node.start) === from) to = Math.max(to, lineAt(node.end))
      })
      return { file, line, text: squeeze(value.trim().slice(marker.length)), from, to }
    })
}

/** @param {string} text */
const squeeze = (text) => text.replace(/\s+/g, " ").trim()

/**
 * @param {string} file
 * @param {number} line
 */
const place = (file, line) => (file === "" ? "tsc:" : `${relative(workspaceRoot, file)}:${line}`)

if (isMain(import.meta.url)) {
  const files = ["packages", "examples"].flatMap((folder) =>
    filesBelow(`${workspaceRoot}${folder}`, /\.types\.ts$/).filter((file) => /[\\/]test[\\/]types[\\/]/.test(file))
  )
  const { expected, problems } = checkTypeErrors(files)
  for (const problem of problems) console.error(problem)
  console.log(`${expected} expected compile errors in ${files.length} files, ${problems.length} problems`)
  process.exitCode = problems.length > 0 ? 1 : 0
}
