/**
 * What makes a job unique, made ready for the database: the key, the states that it is for, and how long.
 */
import { Duration, Option, type Schema } from "effect"
import { createHash } from "node:crypto"
import { activeStates, finishedStates, type State, states } from "../Job.ts"
import type { NewJob, Replaceable, Unique } from "../NewJob.ts"
import { stateBit } from "./columns.ts"
import { canonical, type Problem } from "./json.ts"

/** `Unique` with its defaults, checked. */
export interface Rule {
  readonly fields: ReadonlyArray<Field>
  /** Sorted; undefined for all of the args. */
  readonly keys: ReadonlyArray<string> | undefined
  /** One bit per state, as in `columns.stateBit`. */
  readonly states: number
  /** In milliseconds; undefined for no end. */
  readonly period: number | undefined
  /** What a conflict changes, by the state of the existing job, as bits of `replaceBit`; undefined for nothing. */
  readonly replace: Readonly<Record<ReplaceState, number>> | undefined
  readonly onBusy: "wait" | "skip" | "error"
}

type Field = "worker" | "queue" | "args" | "meta"
export type ReplaceState = "scheduled" | "available" | "retryable"

/** One bit per thing that `replace` can change. */
export const replaceBit: Readonly<Record<Replaceable, number>> = {
  args: 1,
  maxAttempts: 2,
  meta: 4,
  priority: 8,
  queue: 16,
  scheduledAt: 32,
  tags: 64
}

/** The longest time that is added to another, in milliseconds: with it, dates of our days stay within JavaScript's. */
export const longest = 8e15

/** The rule, or what is wrong with it. */
export const ruleOf = (unique: Unique<string>): Rule | Problem => {
  const { fields = ["worker", "queue", "args"], keys, onBusy = "wait", period, replace } = unique
  const wrong = (path: string, problem: string): Problem => ({ path: `options.unique${path}`, problem })

  const unknown = Object.keys(unique).find((name) => !options.has(name))
  if (unknown !== undefined) return wrong(place(unknown), `is not an option: there are ${[...options].join(", ")}`)

  if (!Array.isArray(fields) || fields.length === 0) return wrong(".fields", "must name at least one field")
  const field = fields.findIndex((name) => !allFields.includes(name))
  if (field >= 0) return wrong(`.fields[${field}]`, oneOf(allFields))

  if (keys !== undefined) {
    if (!Array.isArray(keys) || keys.length === 0)
      return wrong(".keys", "must name a field of the args; leave it out for all")
    const key = keys.findIndex((name) => typeof name !== "string")
    if (key >= 0) return wrong(`.keys[${key}]`, "must be the name of a field of the args")
    if (!fields.includes("args")) return wrong(".keys", "are fields of the args, which `fields` leaves out")
  }

  const length = period === undefined ? undefined : Option.getOrUndefined(Duration.fromInput(period))
  if (period !== undefined && length === undefined) return wrong(".period", "is not a duration")
  const millis = length === undefined ? undefined : Duration.toMillis(length)
  if (millis !== undefined && !(millis > 0)) return wrong(".period", "must be longer than nothing")
  const limited = millis !== undefined && Number.isFinite(millis) ? millis : undefined
  if (limited !== undefined && limited > longest) return wrong(".period", "is longer than dates can tell")

  const covered = coveredStates(unique.states ?? (limited === undefined ? "incomplete" : "successful"))
  if (typeof covered === "string") return wrong(".states", covered)

  if (!policies.includes(onBusy)) return wrong(".onBusy", oneOf(policies))

  const masks = { scheduled: 0, available: 0, retryable: 0 }
  for (const [state, names] of Object.entries(replace ?? {})) {
    if (names === undefined) continue
    if (!isReplaceState(state)) return wrong(`.replace${place(state)}`, `cannot be: ${oneOf(Object.keys(masks))}`)
    for (const [index, name] of names.entries()) {
      const bit = replaceBit[name]
      if (bit === undefined) return wrong(`.replace.${state}[${index}]`, oneOf(Object.keys(replaceBit)))
      masks[state] |= bit
    }
  }
  return {
    fields: allFields.filter((name) => fields.includes(name)),
    keys: keys === undefined ? undefined : [...new Set(keys)].toSorted(),
    states: covered.reduce((bits, state) => bits | stateBit[state], 0),
    period: limited,
    replace: masks.scheduled + masks.available + masks.retryable === 0 ? undefined : masks,
    onBusy
  }
}

/**
 * The key of a job with valid args, in hex, or what is wrong.
 *
 * It is the hash of a JSON array that names what it holds, so no two choices of fields or keys can have the same.
 */
export const keyOf = (rule: Rule, job: NewJob, args: Schema.Json): string | Problem => {
  const parts: Array<string> = ['"coppice/jobs/unique/1"']
  for (const field of rule.fields) {
    if (field !== "args" || rule.keys === undefined) {
      parts.push(`"${field}"`, canonical(field === "args" ? args : job[field]))
      continue
    }
    if (typeof args !== "object" || args === null || Array.isArray(args)) {
      return { path: "options.unique.keys", problem: "are fields of the args, which are no object" }
    }
    parts.push('"keys"')
    for (const [key, value] of rule.keys.map((key) => [key, own(args, key)] as const)) {
      // A field that is absent is not the same as one that is null.
      parts.push(value === undefined ? `[${JSON.stringify(key)}]` : `[${JSON.stringify(key)},${canonical(value)}]`)
    }
  }
  return createHash("sha256")
    .update(`[${parts.join(",")}]`)
    .digest("hex")
}

// --------------------------------------------------------------------------------------------------------------------

const own = (object: object, key: string): Schema.Json | undefined =>
  Object.hasOwn(object, key) ? Reflect.get(object, key) : undefined

const options = new Set(["period", "fields", "keys", "states", "replace", "onBusy"])
const allFields: ReadonlyArray<Field> = ["worker", "queue", "args", "meta"]
const policies = ["wait", "skip", "error"]

/** Where a job can go from a state. */
const next: Readonly<Record<State, ReadonlyArray<State>>> = {
  scheduled: ["available", "cancelled"],
  available: ["executing", "cancelled", "scheduled"],
  executing: ["completed", "cancelled", "discarded", "retryable", "scheduled", "available"],
  retryable: ["available", "cancelled"],
  completed: [],
  cancelled: [],
  discarded: []
}

const groups: Readonly<Record<string, ReadonlyArray<State>>> = {
  incomplete: activeStates,
  scheduled: ["scheduled"],
  successful: [...activeStates, "completed"],
  all: [...activeStates, ...finishedStates]
}

/** A key is given back once, so states that a job only reaches through others than these would never have it. */
const coveredStates = (wanted: string | ReadonlyArray<State>): ReadonlyArray<State> | string => {
  if (typeof wanted === "string") return groups[wanted] ?? `${oneOf(Object.keys(groups))}, or a list of states`
  if (!Array.isArray(wanted)) return `${oneOf(Object.keys(groups))}, or a list of states`
  const unknown = wanted.find((state) => !states.includes(state))
  if (unknown !== undefined) return `contain ${JSON.stringify(unknown)}; ${oneOf(states)}`
  if (!wanted.includes("scheduled")) {
    return 'must contain "scheduled": a job has its key from its insertion until it leaves the states'
  }
  const reached = new Set<State>(["scheduled"])
  for (const state of reached) for (const to of next[state]) if (wanted.includes(to)) reached.add(to)
  const lost = wanted.find((state) => !reached.has(state))
  return lost === undefined
    ? [...reached]
    : `contain "${lost}", but not what comes before it: a job gives its key back when it leaves the states`
}

const isReplaceState = (state: string): state is ReplaceState =>
  state === "scheduled" || state === "available" || state === "retryable"

const oneOf = (names: ReadonlyArray<string>): string => `must be one of ${names.join(", ")}`

const place = (name: string): string => (/^[\w$]+$/.test(name) ? `.${name}` : `[${JSON.stringify(name)}]`)
