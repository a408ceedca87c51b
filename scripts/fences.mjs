// Finds the TypeScript fences of Markdown files and of docstrings, and the statements in them that say what they give.
import { lineFinder, parse, visit } from "./source.mjs"

/**
 * A TypeScript fence. `line` is the line of the file on which its code begins, `indent` what precedes the code on
 * its first line (a docstring's ` * `), `words` the rest of the opening line.
 *
 * @typedef {{ line: number, indent: number, words: string, code: string }} Fence
 */

/**
 * The fences of a file, by its extension: Markdown, or TypeScript with fences in its docstrings.
 *
 * @param {string} file
 * @param {string} text
 * @returns {Array<Fence>}
 */
export const fencesOf = (file, text) => {
  if (file.endsWith(".md")) return fencesIn(text.split(/\r?\n/), 1, /^/)
  const lineAt = lineFinder(text)
  return parse(file, text)
    .comments.filter(({ type, value }) => type === "Block" && value.startsWith("*"))
    .flatMap(({ start, value }) => fencesIn(value.split(/\r?\n/), lineAt(start), /^\s*\* ?/))
}

/**
 * @param {ReadonlyArray<string>} raw
 * @param {number} firstLine
 * @param {RegExp} margin what stands before the text of a line
 */
const fencesIn = (raw, firstLine, margin) => {
  const lines = raw.map((line) => line.replace(margin, ""))
  /** @type {Array<Fence>} */
  const found = []
  let at = 0
  while (at < lines.length) {
    const opening = /^( *)(`{3,}|~{3,}) *([^\s`]*) *([^`]*)$/.exec(lines[at++] ?? "")
    if (opening === null) continue
    const [, space = "", mark = "", language = "", words = ""] = opening
    const start = at
    while (at < lines.length && !closes(lines[at] ?? "", mark)) at++
    if (language === "ts" || language === "typescript") {
      const inside = new RegExp(`^ {0,${space.length}}`)
      const code = lines.slice(start, at).map((line) => line.replace(inside, ""))
      const indent = (raw[start] ?? "").length - (code[0] ?? "").length
      found.push({ line: firstLine + start, indent, words: words.trim(), code: code.join("\n") })
    }
    at++
  }
  return found
}

/**
 * Whether a line ends a fence: the mark it began with, or a longer one, alone.
 *
 * @param {string} line
 * @param {string} mark
 */
const closes = (line, mark) => line.trim().startsWith(mark) && /^(`+|~+)$/.test(line.trim())

/**
 * Rewrites a program so that each statement followed by `// => value` on the line where it ends is asserted to give that
 * value; lines stay where they are. Returns how many assertions it holds.
 *
 * @param {string} file
 * @param {string} code
 */
export const withAssertions = (file, code) => {
  const lineAt = lineFinder(code)
  const { program, comments } = parse(file, code)
  /** @type {Array<import("./source.mjs").Node>} */
  const statements = []
  visit(program, (node) => {
    if (node.type === "ExpressionStatement" || node.type === "VariableDeclaration") statements.push(node)
  })
  const claims = comments.filter(({ type, value }) => type === "Line" && value.startsWith(" =>"))
  let text = code
  // From the last to the first, so that the offsets of those still to come stay right.
  for (const [index, { start, value }] of [...claims.entries()].toReversed()) {
    const statement = statements
      .filter((one) => one.end <= start && lineAt(one.end) === lineAt(start))
      .toSorted((a, b) => b.end - a.end || a.start - b.start)[0]
    const expected = value.slice(3).trim()
    if (statement === undefined) throw new Error(`${file}: no statement ends before \`// => ${expected}\``)
    const source = code.slice(statement.start, statement.end).replace(/;$/, "")
    text =
      text.slice(0, statement.start) + asserting(file, index, statement, source, expected) + text.slice(statement.end)
  }
  return { text, count: claims.length }
}

/**
 * @param {string} file
 * @param {number} index
 * @param {import("./source.mjs").Node} statement
 * @param {string} source
 * @param {string} expected
 */
const asserting = (file, index, statement, source, expected) => {
  if (statement.type === "VariableDeclaration") {
    const name = /^(?:const|let)\s+(\w+)/.exec(source)?.[1]
    if (name === undefined) throw new Error(`${file}: \`// => ${expected}\` needs a single name on its left`)
    return `${source}; __gives(${index}, ${name}, ${expected})`
  }
  const printed = /^console\.log\(([\s\S]*)\)$/.exec(source)?.[1]
  return `;__gives(${index}, ${printed ?? source}, ${expected})`
}
