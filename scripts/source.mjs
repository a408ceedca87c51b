// Reads TypeScript sources: the tree of a file, its comments and its imports.
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { parseSync } from "vite"

/**
 * A node of the syntax tree, as far as the checks look at it.
 *
 * @typedef {{ type: string, start: number, end: number, [key: string]: unknown }} Node
 */

/** @typedef {{ type: "Line" | "Block", value: string, start: number, end: number }} Comment */

/**
 * One import or re-export of a file; `isType` when nothing of it is left at run time.
 *
 * @typedef {{ specifier: string, line: number, isType: boolean, names: ReadonlyArray<string> }} Import
 */

/**
 * Parses a file.
 *
 * @param {string} file only its extension matters
 * @param {string} text
 * @returns {{ program: Node, comments: ReadonlyArray<Comment> }}
 */
export const parse = (file, text) => {
  const { program, comments, errors } = parseSync(file, text)
  if (errors.length > 0) throw new Error(`${file}: ${errors.map((error) => error.message).join("; ")}`)
  return { program: /** @type {Node} */ (/** @type {unknown} */ (program)), comments }
}

/**
 * Every import and re-export of a file: declarations, `import("...")` and `import("...")` types.
 *
 * @param {string} file
 * @param {string} text
 * @returns {Array<Import>}
 */
export const importsOf = (file, text) => {
  const lineAt = lineFinder(text)
  /** @type {Array<Import>} */
  const found = []
  visit(parse(file, text).program, (node) => {
    const source = literal(node["source"] ?? node["argument"])
    if (source === undefined || !importing.has(node.type)) return
    const isType = node.type === "TSImportType" || node["importKind"] === "type" || node["exportKind"] === "type"
    found.push({ specifier: source, line: lineAt(node.start), isType, names: importedNames(node) })
  })
  return found
}

const importing = new Set([
  "ImportDeclaration",
  "ExportNamedDeclaration",
  "ExportAllDeclaration",
  "ImportExpression",
  "TSImportType"
])

/**
 * Calls `see` with a node and everything below it.
 *
 * @param {unknown} node
 * @param {(node: Node) => void} see
 */
export const visit = (node, see) => {
  if (Array.isArray(node)) {
    for (const item of node) visit(item, see)
  } else if (isNode(node)) {
    see(node)
    for (const value of Object.values(node)) visit(value, see)
  }
}

/**
 * A function from an offset to its line, counted from 1.
 *
 * @param {string} text
 */
export const lineFinder = (text) => {
  const starts = [0]
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1)
  return (/** @type {number} */ offset) => {
    let low = 0
    let high = starts.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (/** @type {number} */ (starts[middle]) <= offset) low = middle
      else high = middle - 1
    }
    return low + 1
  }
}

/**
 * Files below a folder that match, as absolute paths in a stable order; none when the folder does not exist.
 *
 * @param {string} folder
 * @param {RegExp} pattern
 * @returns {Array<string>}
 */
export const filesBelow = (folder, pattern) => {
  /** @type {Array<string>} */
  const found = []
  for (const entry of entriesOf(folder)) {
    const path = join(folder, entry.name)
    if (entry.isDirectory() && !skipped.has(entry.name)) found.push(...filesBelow(path, pattern))
    if (entry.isFile() && pattern.test(entry.name)) found.push(path)
  }
  return found
}

const skipped = new Set(["node_modules", "dist", "coverage", ".git", ".data"])

/** @param {string} folder */
const entriesOf = (folder) => {
  try {
    return readdirSync(folder, { withFileTypes: true }).toSorted((a, b) => (a.name < b.name ? -1 : 1))
  } catch (cause) {
    if (/** @type {NodeJS.ErrnoException} */ (cause).code === "ENOENT") return []
    throw cause
  }
}

/**
 * @param {unknown} value
 * @returns {value is Node}
 */
const isNode = (value) => typeof value === "object" && value !== null && "type" in value && "start" in value

/** @param {unknown} node */
const literal = (node) => (isNode(node) && typeof node["value"] === "string" ? node["value"] : undefined)

/** @param {Node} node */
const importedNames = (node) =>
  (Array.isArray(node["specifiers"]) ? node["specifiers"] : []).flatMap((specifier) => {
    const name = specifier.imported ?? specifier.local
    return specifier.type === "ImportNamespaceSpecifier" || !isNode(name) ? [] : [String(name["name"] ?? name["value"])]
  })
