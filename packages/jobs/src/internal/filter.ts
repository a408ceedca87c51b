/**
 * A filter as a part of a statement.
 *
 * All that comes from the caller is a parameter, except states, which are literals out of our own list, so that partial
 * indexes fit. What cannot be in the database matches nothing, and is not sent.
 */
import { activeStates, finishedStates, type State } from "../Job.ts"
import type { Filter } from "../Jobs.ts"
import { numbers } from "./database.ts"
import { findUnstorable, problemOf } from "./json.ts"

/** What jobs `j` must be like: of each table a condition, or undefined where none of its jobs can match. */
export interface Condition {
  readonly active: string | undefined
  readonly finished: string | undefined
  readonly params: ReadonlyArray<unknown>
}

/** The condition for a filter, whose first parameter is `$first`, and which only looks at jobs in the allowed states. */
export const compile = (filter: Filter, first: number, allowed: ReadonlyArray<State>): Condition => {
  const wanted = filter.state === undefined ? allowed : intersect(allowed, filter.state)
  const params: Array<unknown> = []
  const parts: Array<string> = []
  const add = (part: (parameter: string) => string, value: unknown) => {
    parts.push(part(`$${first + params.length}`))
    params.push(value)
  }
  if (filter.id !== undefined) {
    const ids = (typeof filter.id === "number" ? [filter.id] : filter.id).filter((id) => Number.isSafeInteger(id))
    if (ids.length === 0) return nothing
    add((ids) => `j.id = any(${ids}::text::bigint[])`, numbers(ids))
  }
  for (const column of ["queue", "worker"] as const) {
    const names = filter[column]
    if (names === undefined) continue
    const possible = (typeof names === "string" ? [names] : names).filter((name) => problemOf(name) === undefined)
    if (possible.length === 0) return nothing
    add((names) => `j.${column} = any(${names}::text[])`, possible)
  }
  if (filter.tag !== undefined) {
    if (problemOf(filter.tag) !== undefined) return nothing
    add((tag) => `${tag}::text = any(j.tags)`, filter.tag)
  }
  for (const column of ["args", "meta"] as const) {
    const contained = filter[column]
    if (contained === undefined) continue
    if (findUnstorable(contained, column) !== undefined) return nothing
    add((contained) => `j.${column} @> ${contained}::text::jsonb`, JSON.stringify(contained))
  }
  const condition = (table: ReadonlyArray<State>) => {
    const inTable = table.filter((state) => wanted.includes(state))
    if (inTable.length === 0) return undefined
    const states = inTable.length === table.length ? [] : [`j.state in ('${inTable.join("', '")}')`]
    return ["true", ...states, ...parts].join(" and ")
  }
  return { active: condition(activeStates), finished: condition(finishedStates), params }
}

const nothing: Condition = { active: undefined, finished: undefined, params: [] }

const intersect = (allowed: ReadonlyArray<State>, state: State | ReadonlyArray<State>) =>
  allowed.filter((item) => (typeof state === "string" ? item === state : state.includes(item)))
