/**
 * Jobs on their way into the database: checked, and encoded as the parameters of one statement.
 *
 * Jobs mostly differ in their args. What many have in common is a profile, and is checked and sent once.
 */
import { DateTime, Duration, Option, type Schema } from "effect"
import { type Enqueued, InvalidJob, type NewJob, type Rejected } from "../NewJob.ts"
import type { Spec } from "../Worker.ts"
import { findUnstorable, type Problem, problemOf, storedSize } from "./json.ts"
import { keyOf, longest, type Rule, ruleOf } from "./unique.ts"

/** A job that can be inserted. */
export interface Row {
  readonly job: NewJob
  readonly profile: Profile
  /** As JSON text. */
  readonly args: string
  /** When it is due, in milliseconds since the epoch; undefined for `delay`. */
  readonly due: number | undefined
  /** In how many milliseconds it is due; undefined for `due`, or for at once. */
  readonly delay: number | undefined
  readonly unique: { readonly rule: Rule; readonly key: string } | undefined
}

/** What became of rows, in their order, and the queues in which jobs are available by it. */
export interface Written {
  readonly results: ReadonlyArray<Result>
  readonly queues: ReadonlySet<string>
}

export type Result = Enqueued | Rejected

/** What jobs have in common. */
export interface Profile {
  readonly rule: Rule | undefined
  /** As JSON text. */
  readonly text: string
}

/** Checks jobs, one after the other. */
export class Rows {
  private readonly profiles = new Map<string, Profile>()
  private last: { readonly job: NewJob; readonly profile: Profile } | undefined

  /** The row of a job, or why there is none. */
  check(job: NewJob): Row | InvalidJob {
    if (job.args._tag === "Invalid") return job.args.error
    const profile = this.profileOf(job)
    if ("problem" in profile) return invalid(job, profile)
    const { value } = job.args
    const args = JSON.stringify(value)
    const time = timeOf(job)
    if ("problem" in time) return invalid(job, time)
    const problem = argsProblem(value, args) ?? partitionProblem(job.partition)
    if (problem !== undefined) return invalid(job, problem)
    const { rule } = profile
    if (rule === undefined) return { job, profile, args, ...time, unique: undefined }
    const key = keyOf(rule, job, value)
    return typeof key === "string" ? { job, profile, args, ...time, unique: { rule, key } } : invalid(job, key)
  }

  private profileOf(job: NewJob): Profile | Problem {
    if (this.last !== undefined && sameProfile(job, this.last.job)) return this.last.profile
    const found = this.make(job)
    if ("text" in found) this.last = { job, profile: found }
    return found
  }

  private make(job: NewJob): Profile | Problem {
    const problem = profileProblem(job)
    if (problem !== undefined) return problem
    const rule = job.unique === undefined ? undefined : ruleOf(job.unique)
    if (rule !== undefined && "problem" in rule) return rule
    const text = JSON.stringify({
      worker: job.worker,
      args_version: job.argsVersion,
      queue: job.queue,
      priority: job.priority,
      max_attempts: job.maxAttempts,
      tags: job.tags,
      meta: job.meta,
      unique_states: rule?.states,
      period: rule?.period
    })
    // Rules that differ in what the statement does not see need profiles of their own.
    const key = rule === undefined ? text : text + JSON.stringify(rule)
    const known = this.profiles.get(key)
    if (known !== undefined) return known
    const profile = { rule, text }
    this.profiles.set(key, profile)
    return profile
  }
}

/** What is wrong with what a worker says of its jobs, whatever their args are. */
export const checkSpec = (spec: Spec): InvalidJob | undefined => {
  const { argsVersion, maxAttempts, meta, name: worker, priority, queue, tags, unique } = spec
  const job: NewJob = {
    "~coppice/jobs/NewJob": true,
    worker,
    argsVersion,
    args: { _tag: "Valid", value: {} },
    queue,
    priority,
    maxAttempts,
    tags,
    meta,
    partition: undefined,
    unique,
    scheduleAt: undefined,
    scheduleIn: undefined
  }
  const rule = unique === undefined ? undefined : ruleOf(unique)
  const problem = profileProblem(job) ?? (rule !== undefined && "problem" in rule ? rule : undefined)
  return problem === undefined ? undefined : invalid(job, problem)
}

/** The parameters of the inserting statement, from `$2` on. */
export const parameters = (rows: ReadonlyArray<Row>, trace: string | null): ReadonlyArray<unknown> => {
  const profiles = new Map<Profile, number>()
  const numberOf = (profile: Profile) => {
    const known = profiles.get(profile)
    if (known !== undefined) return known
    const number = profiles.size
    profiles.set(profile, number)
    return number
  }
  const numbersOfProfiles = rows.map(({ profile }) => numberOf(profile))
  return [
    `[${rows.map(({ args }) => args).join(",")}]`,
    `{${numbersOfProfiles.join(",")}}`,
    `[${[...profiles.keys()].map(({ text }) => text).join(",")}]`,
    column(rows, ({ due }) => due),
    column(rows, ({ delay }) => delay),
    rows.some(({ job }) => job.partition !== undefined)
      ? JSON.stringify(rows.map(({ job }) => job.partition ?? null))
      : "[]",
    trace
  ]
}

/** An array of what most rows do not have; what is missing at its end is null to the statement. */
export const column = (rows: ReadonlyArray<Row>, value: (row: Row) => number | string | undefined): string =>
  rows.some((row) => value(row) !== undefined) ? `{${rows.map((row) => value(row) ?? "null").join(",")}}` : "{}"

export const isUnique = (row: Row): boolean => row.unique !== undefined

/** How many characters of args go into one statement: far from the 256 MiB that a jsonb array can have. */
const largestPart = 32 * 1024 * 1024

/** Rows in parts that one statement can take. Almost always that is one. */
export const parts = (rows: ReadonlyArray<Row>): ReadonlyArray<ReadonlyArray<Row>> => {
  let size = 0
  for (const row of rows) size += row.args.length
  if (size <= largestPart) return rows.length === 0 ? [] : [rows]
  const result: Array<Array<Row>> = []
  let part: Array<Row> = []
  size = 0
  // The order of keys must hold from part to part, too.
  for (const row of rows.some(isUnique) ? rows.toSorted(inOrderOfKeys) : rows) {
    size += row.args.length
    if (size > largestPart && part.length > 0) {
      result.push(part)
      part = []
      size = row.args.length
    }
    part.push(row)
  }
  result.push(part)
  return result
}

const inOrderOfKeys = (a: Row, b: Row): number => {
  const [left, right] = [a.unique?.key ?? "", b.unique?.key ?? ""]
  return left < right ? -1 : left > right ? 1 : 0
}

// --------------------------------------------------------------------------------------------------------------------

const invalid = (job: NewJob, problem: Problem): InvalidJob =>
  new InvalidJob({ worker: String(job.worker), path: problem.path, problem: problem.problem })

const sameProfile = (a: NewJob, b: NewJob): boolean =>
  a.worker === b.worker
  && a.argsVersion === b.argsVersion
  && a.queue === b.queue
  && a.priority === b.priority
  && a.maxAttempts === b.maxAttempts
  && a.tags === b.tags
  && a.meta === b.meta
  && a.unique === b.unique

const profileProblem = (job: NewJob): Problem | undefined =>
  nameProblem(job.worker, "worker", 255)
  ?? nameProblem(job.queue, "options.queue", 127)
  ?? integerProblem(job.argsVersion, "argsVersion", 1, 32_767)
  ?? integerProblem(job.priority, "options.priority", 0, 9)
  ?? integerProblem(job.maxAttempts, "options.maxAttempts", 1, 2_147_483_647)
  ?? tagsProblem(job.tags)
  ?? metaProblem(job.meta)

const nameProblem = (name: string, path: string, limit: number): Problem | undefined => {
  if (typeof name !== "string" || name === "") return { path, problem: "must be a text that is not empty" }
  const problem = problemOf(name)
  if (problem !== undefined) return { path, problem }
  // PostgreSQL counts characters, as the iterator of a string does.
  if (name.length <= limit || [...name].length <= limit) return undefined
  return { path, problem: `is longer than ${limit} characters` }
}

const integerProblem = (value: number, path: string, from: number, to: number): Problem | undefined =>
  Number.isInteger(value) && from <= value && value <= to
    ? undefined
    : { path, problem: `must be an integer from ${from} to ${to}, not ${String(value)}` }

const tagsProblem = (tags: ReadonlyArray<string>): Problem | undefined => {
  if (!Array.isArray(tags)) return { path: "options.tags", problem: "must be a list of texts" }
  for (const [index, tag] of tags.entries()) {
    const problem = nameProblem(tag, `options.tags[${index}]`, 255)
    if (problem !== undefined) return problem
  }
  return tags.length <= 100 ? undefined : { path: "options.tags", problem: "are more than 100" }
}

const metaProblem = (meta: NewJob["meta"]): Problem | undefined => {
  if (typeof meta !== "object" || meta === null || Array.isArray(meta))
    return { path: "meta", problem: "must be an object" }
  return (
    findUnstorable(meta, "meta")
    ?? (storedSize(meta, JSON.stringify(meta)) <= largestMeta
      ? undefined
      : { path: "meta", problem: "is larger than 256 KiB: what a job needs belongs in its args" })
  )
}

/** An index holds it, whose entries must be small. */
const partitionProblem = (partition: string | undefined): Problem | undefined =>
  partition === undefined ? undefined : nameProblem(partition, "options.partition", 255)

/** What a row may be at most, as text: drivers refuse messages of more than 16 MiB, and it could never be claimed. */
const largestArgs = 15 * 1024 * 1024
const largestMeta = 256 * 1024

/** No JSON becomes more than this many times as long when PostgreSQL writes it. */
const mostGrowth = 60

const argsProblem = (args: Schema.Json, text: string): Problem | undefined =>
  text.length * mostGrowth <= largestArgs || storedSize(args, text) <= largestArgs
    ? undefined
    : { path: "args", problem: "are larger than 15 MiB: keep such data elsewhere, and give the job its place" }

/** The times that PostgreSQL and JavaScript both know, in milliseconds since the epoch. */
const earliest = Date.UTC(-4712, 0, 1)
const latest = 8.64e15

const timeOf = (job: NewJob): Pick<Row, "due" | "delay"> | Problem => {
  const { scheduleAt, scheduleIn } = job
  if (scheduleAt === undefined && scheduleIn === undefined) return now
  if (scheduleAt !== undefined && scheduleIn !== undefined) {
    return { path: "options.scheduleIn", problem: "cannot be given together with scheduleAt: leave one out" }
  }
  if (scheduleAt !== undefined) {
    const due = Option.getOrUndefined(Option.map(DateTime.make(scheduleAt), DateTime.toEpochMillis))
    if (due === undefined || Number.isNaN(due)) return { path: "options.scheduleAt", problem: "is not a date" }
    return earliest <= due && due <= latest
      ? { due, delay: undefined }
      : { path: "options.scheduleAt", problem: "is not a date that PostgreSQL can store" }
  }
  const duration = scheduleIn === undefined ? Option.none() : Duration.fromInput(scheduleIn)
  if (Option.isNone(duration)) return { path: "options.scheduleIn", problem: "is not a duration" }
  const delay = Duration.toMillis(duration.value)
  if (delay < 0) return { path: "options.scheduleIn", problem: "must not be negative" }
  return delay <= longest
    ? { due: undefined, delay }
    : { path: "options.scheduleIn", problem: "ends later than dates can tell" }
}

const now = { due: undefined, delay: undefined }
