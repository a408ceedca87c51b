/**
 * What JSON may hold in PostgreSQL: any text but NUL and lone halves of surrogate pairs.
 */
import type { Schema } from "effect"

/** The place and the reason of the first text that `jsonb` would refuse; undefined if there is none. */
export const findUnstorable = (
  value: unknown,
  path: string
): { readonly path: string; readonly problem: string } | undefined => {
  if (typeof value === "string") {
    const problem = problemOf(value)
    return problem === undefined ? undefined : { path, problem }
  }
  if (typeof value !== "object" || value === null) return undefined
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      const found = findUnstorable(item, `${path}[${index}]`)
      if (found !== undefined) return found
    }
    return undefined
  }
  for (const [key, item] of Object.entries(value)) {
    const place = /^[\w$]+$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`
    const problem = problemOf(key)
    if (problem !== undefined) return { path: place, problem: `is a key that ${problem}` }
    const found = findUnstorable(item, place)
    if (found !== undefined) return found
  }
  return undefined
}

/** What PostgreSQL has against a text, if anything. */
export const problemOf = (text: string): string | undefined =>
  text.includes("\u0000")
    ? "contains a NUL byte, which PostgreSQL cannot store: remove it"
    : text.isWellFormed()
      ? undefined
      : "contains half of a surrogate pair, which is not Unicode text: was a string cut in the middle of a character?"

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
