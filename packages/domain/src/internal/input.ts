/**
 * What a database row cannot hold, found before the database is asked.
 *
 * PostgreSQL refuses NUL in `text` and `jsonb` with an error that belongs to no field, and half a surrogate pair is
 * turned into U+FFFD on its way there without any error. Walks are iterative: the input may be nested deeper than the
 * stack.
 */
import { Option, Redacted } from "effect"
import type { FieldMessage } from "../ValidationError.ts"

/** Deeper than any form, shallow enough for a recursive schema to be decoded without overflowing the stack. */
export const maxDepth = 128

const NUL = "\u0000"
const tooMany = 100

interface Node {
  readonly value: unknown
  readonly depth: number
  readonly parent: Node | undefined
  /** The key under which the parent holds the value, `undefined` when the parent only wraps it. */
  readonly key: PropertyKey | undefined
}

/** Every string (and every key) that PostgreSQL would refuse or change, at most 100 of them. */
export const unstorableText = (
  value: unknown,
  isField: (key: string) => boolean = () => true
): ReadonlyArray<FieldMessage> => {
  const found: Array<FieldMessage> = []
  walk(value, isField, (node) => {
    const message = textMessage(node.value) ?? (typeof node.key === "string" ? textMessage(node.key) : undefined)
    if (message !== undefined) found.push({ path: pathOf(node), message })
    return found.length < tooMany
  })
  return found
}

/** Whether something in the fields of the input is nested deeper than `maxDepth`. */
export const isTooDeep = (value: unknown, isField: (key: string) => boolean): boolean => {
  let tooDeep = false
  walk(value, isField, (node) => {
    tooDeep = node.depth > maxDepth
    return !tooDeep
  })
  return tooDeep
}

const textMessage = (value: unknown): string | undefined => {
  if (typeof value !== "string") return undefined
  if (value.includes(NUL)) return "must not contain the NUL character"
  return value.isWellFormed() ? undefined : "must be well-formed Unicode, without half of a surrogate pair"
}

const walk = (root: unknown, isField: (key: string) => boolean, visit: (node: Node) => boolean): void => {
  const pending: Array<Node> = [{ value: root, depth: 0, parent: undefined, key: undefined }]
  const seen = new WeakSet<object>()
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    if (!visit(node)) return
    if (typeof node.value !== "object" || node.value === null || seen.has(node.value)) continue
    seen.add(node.value)
    // Pushed in reverse, so that errors come in the order of the input.
    for (const [key, value] of childrenOf(node.value).toReversed()) {
      if (node.parent !== undefined || typeof key !== "string" || isField(key)) {
        pending.push({ value, depth: node.depth + 1, parent: node, key })
      }
    }
  }
}

type Child = readonly [key: PropertyKey | undefined, value: unknown]

const childrenOf = (value: object): Array<Child> => {
  if (Array.isArray(value)) return value.map((item, index) => [index, item])
  if (Option.isOption(value)) return Option.isSome(value) ? [[undefined, value.value]] : []
  if (Redacted.isRedacted(value)) return [[undefined, Redacted.value(value)]]
  if (value instanceof Map)
    return [...value].flatMap(([key, item]): Array<Child> => [
      [undefined, key],
      [undefined, item]
    ])
  if (value instanceof Set) return [...value].map((item) => [undefined, item])
  if (ArrayBuffer.isView(value)) return []
  return Object.entries(value)
}

const pathOf = (node: Node): ReadonlyArray<PropertyKey> => {
  const path: Array<PropertyKey> = []
  for (let at: Node | undefined = node; at !== undefined; at = at.parent) {
    if (at.key !== undefined) path.push(at.key)
  }
  return path.toReversed()
}
