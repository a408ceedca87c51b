/**
 * What JSON may hold in PostgreSQL: any text but NUL and lone halves of surrogate pairs, nested no deeper than its parser
 * goes.
 */
import type { Schema } from "effect"

/** Where something is, and why it cannot be. */
export interface Problem {
  readonly path: string
  readonly problem: string
}

/** The place and the reason of the first value that `jsonb` would refuse or not keep as it is; undefined if there is none. */
export const findUnstorable = (value: unknown, path: string): Problem | undefined => find(value, path, 0)

/** Far from where PostgreSQL's parser, or JavaScript's, ends with its stack. A cycle ends here too. */
const deepest = 1_000

const find = (value: unknown, path: string, depth: number): Problem | undefined => {
  switch (typeof value) {
    case "string": {
      const problem = problemOf(value)
      return problem === undefined ? undefined : { path, problem }
    }
    case "boolean":
      return undefined
    case "number":
      return Number.isFinite(value) ? undefined : { path, problem: `is ${value}, which JSON does not know` }
    case "object":
      break
    default:
      return { path, problem: `is ${article(typeof value)}, which JSON does not know` }
  }
  if (value === null) return undefined
  // The path of something so deep would fill the screen.
  if (depth === deepest) return { path: path.slice(0, 100), problem: `is nested more than ${deepest} deep` }
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      const found = find(value[index], `${path}[${index}]`, depth + 1)
      if (found !== undefined) return found
    }
    return undefined
  }
  if (!isPlain(value)) {
    return { path, problem: `is an instance of ${value.constructor?.name ?? "a class"}: encode it to JSON first` }
  }
  for (const [key, item] of Object.entries(value)) {
    // As in JSON.stringify: a property that is undefined is none.
    if (item === undefined) continue
    const problem = problemOf(key)
    if (problem !== undefined) return { path: member(path, key), problem: `is a key that ${problem}` }
    // Most values are fine, so their paths are not worth building.
    const found = isSimple(item) ? undefined : find(item, member(path, key), depth + 1)
    if (found !== undefined) return found
  }
  return undefined
}

const article = (type: string): string => (type === "undefined" ? type : `a ${type}`)

const member = (path: string, key: string): string =>
  /^[\w$]+$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`

const isPlain = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null
}

const isSimple = (value: unknown): boolean => {
  switch (typeof value) {
    case "string":
      return problemOf(value) === undefined
    case "number":
      return Number.isFinite(value)
    default:
      return typeof value === "boolean" || value === null
  }
}

/** What PostgreSQL has against a text, if anything. */
export const problemOf = (text: string): string | undefined =>
  text.includes("\u0000")
    ? "contains a NUL byte, which PostgreSQL cannot store: remove it"
    : text.isWellFormed()
      ? undefined
      : "contains half of a surrogate pair, which is not Unicode text: was a string cut in the middle of a character?"

/**
 * How many bytes PostgreSQL makes of JSON at most, when it writes it as text: it puts blanks behind commas and colons, and
 * spells numbers out that JavaScript writes with an exponent.
 */
export const storedSize = (value: Schema.Json, text: string): number => Buffer.byteLength(text) + growth(value)

const growth = (value: Schema.Json | undefined): number => {
  if (typeof value === "number") return `${value}`.includes("e") ? 330 : 0
  if (typeof value !== "object" || value === null) return 0
  const items = Object.values(value)
  let sum = 2 * items.length
  for (const item of items) sum += growth(item)
  return sum
}

/** Makes a text storable: what PostgreSQL would refuse becomes U+FFFD, and what is too long is cut between characters. */
export const storable = (text: string, limit: number): string => {
  const cut = text.length > limit ? `${text.slice(0, limit)}…` : text
  return cut.replaceAll("\u0000", "\uFFFD").toWellFormed()
}

/** A text of JSON whose keys are sorted, so that equal values have equal texts. */
export const canonical = (value: Schema.Json | undefined): string => {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`
  if (typeof value !== "object" || value === null) return JSON.stringify(value ?? null)
  const entries = Object.entries(value).filter(([, item]) => item !== undefined)
  entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(",")}}`
}
