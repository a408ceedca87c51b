/**
 * Entries of the crontab: checking them, and how the database has them.
 */
import { DateTime, Effect, Result, type Schema } from "effect"
import { type CatchUp, type Entry, type EntryRecord, InvalidEntry } from "../Crontab.ts"
import { InvalidJob, type NewJob } from "../NewJob.ts"
import { parse, type Schedule } from "./cronSchedule.ts"
import { findUnstorable, problemOf } from "./json.ts"

/** What an entry enqueues, under the names of the columns. */
export interface Spec {
  readonly worker: string
  readonly args_version: number
  readonly queue: string
  readonly args: Schema.Json
  readonly meta: Readonly<Record<string, Schema.Json>>
  readonly tags: ReadonlyArray<string>
  readonly priority: number
  readonly max_attempts: number
  readonly partition_key: string | null
}

/** The columns of a spec, the same in `cron_entries` and in `jobs`. */
export const specColumns = [
  "worker",
  "args_version",
  "queue",
  "args",
  "meta",
  "tags",
  "priority",
  "max_attempts",
  "partition_key"
] as const

const types: Readonly<Record<(typeof specColumns)[number], string>> = {
  worker: "text",
  args_version: "smallint",
  queue: "text",
  args: "text::jsonb",
  meta: "text::jsonb",
  tags: "text[]",
  priority: "smallint",
  max_attempts: "int",
  partition_key: "text"
}

/** A spec as expressions over parameters, the first of which has this number. */
export const specFrom = (first: number): ReadonlyArray<string> =>
  specColumns.map((column, index) => `$${first + index}::${types[column]}`)

/** A spec as these parameters. */
export const specParams = (spec: Spec): ReadonlyArray<unknown> =>
  specColumns.map((column) => (column === "args" || column === "meta" ? JSON.stringify(spec[column]) : spec[column]))

/** When an entry fires, checked. */
export interface Timing {
  readonly expression: string
  readonly timeZone: string
  readonly catchUp: CatchUp
  readonly schedule: Schedule
}

/** An entry that can be stored and fired as it is. */
export interface Prepared extends Timing {
  readonly name: string
  readonly spec: Spec
}

/** A row of `cron_entries`. */
export interface EntryRow extends Spec {
  readonly name: string
  readonly source: "static" | "dynamic"
  readonly expression: string
  readonly time_zone: string
  readonly catch_up: string
  readonly paused: boolean
  readonly last_fire: Date | null
  readonly fired_at: Date | null
  /** Whether some node has had the entry in its code lately; always for dynamic ones. */
  readonly live: boolean
}

// --------------------------------------------------------------------------------------------------------------------
// checking
// --------------------------------------------------------------------------------------------------------------------

/** Checks the entries of the code: each of them, and that no two have one name. */
export const prepareAll = (
  entries: ReadonlyArray<Entry>
): Effect.Effect<ReadonlyArray<Prepared>, InvalidEntry | InvalidJob> =>
  Effect.suspend(() => {
    const names = new Set<string>()
    return Effect.forEach(entries, (entry) => {
      if (names.has(entry.name))
        return new InvalidEntry({ name: entry.name, problem: "is there twice: rename one of them" })
      names.add(entry.name)
      return Effect.fromResult(prepare(entry))
    })
  })

export const prepare = (entry: Entry): Result.Result<Prepared, InvalidEntry | InvalidJob> =>
  Result.gen(function* () {
    const name = yield* checkName(entry.name)
    const timing = yield* checkTiming(name, entry.expression, entry.timeZone ?? "UTC", entry.catchUp ?? "skip")
    const spec = yield* checkJob(entry.job)
    return { name, spec, ...timing }
  })

/** How many instants `all` may make up for. */
const mostCaughtUp = 10_000

export const checkTiming = (
  name: string,
  expression: string,
  timeZone: string,
  catchUp: CatchUp
): Result.Result<Timing, InvalidEntry> =>
  Result.gen(function* () {
    const schedule = yield* parse(name, expression, timeZone)
    const max = typeof catchUp === "object" ? catchUp.all : 1
    if (!Number.isInteger(max) || max < 1 || max > mostCaughtUp) {
      const problem = `makes up for all of ${max} instants: use a whole number from 1 to ${mostCaughtUp}`
      return yield* Result.fail(new InvalidEntry({ name, problem }))
    }
    return { expression: expression.trim(), timeZone, catchUp, schedule }
  })

const checkName = (name: string): Result.Result<string, InvalidEntry> => {
  const problem =
    name.length === 0
      ? "needs a name"
      : name.length > 255
        ? "has a name of more than 255 characters"
        : problemOf(name) === undefined
          ? undefined
          : `has a name that ${problemOf(name)}`
  return problem === undefined
    ? Result.succeed(name)
    : Result.fail(new InvalidEntry({ name: name.slice(0, 255).toWellFormed(), problem }))
}

/** Checks a job as far as the database would. */
export const checkJob = (job: NewJob): Result.Result<Spec, InvalidJob> => {
  if (job.args._tag === "Invalid") return Result.fail(job.args.error)
  const wrong =
    between("priority", job.priority, 0, 9)
    ?? between("maxAttempts", job.maxAttempts, 1, 2_147_483_647)
    ?? between("argsVersion", job.argsVersion, 0, 32_767)
    ?? sized("queue", job.queue, 127)
    ?? sized("worker", job.worker, 255)
    ?? findUnstorable([job.queue, job.worker, job.partition ?? ""], "queue, worker or partition ")
    ?? findUnstorable(job.tags, "tags")
    ?? findUnstorable(job.meta, "meta")
  if (wrong !== undefined) return Result.fail(new InvalidJob({ worker: job.worker, ...wrong }))
  return Result.succeed({
    worker: job.worker,
    args_version: job.argsVersion,
    queue: job.queue,
    args: job.args.value,
    meta: job.meta,
    tags: job.tags,
    priority: job.priority,
    max_attempts: job.maxAttempts,
    partition_key: job.partition ?? null
  })
}

const between = (path: string, value: number, min: number, max: number) =>
  Number.isInteger(value) && value >= min && value <= max
    ? undefined
    : { path, problem: `is ${value}: use a whole number from ${min} to ${max}` }

const sized = (path: string, value: string, max: number) =>
  value.length >= 1 && value.length <= max ? undefined : { path, problem: `needs 1 to ${max} characters` }

// --------------------------------------------------------------------------------------------------------------------
// the database's view
// --------------------------------------------------------------------------------------------------------------------

export const encodeCatchUp = (catchUp: CatchUp): string =>
  typeof catchUp === "object" ? `all:${catchUp.all}` : catchUp

export const decodeCatchUp = (text: string): CatchUp => {
  const max = /^all:(\d+)$/.exec(text)?.[1]
  return max === undefined ? (text === "latest" ? "latest" : "skip") : { all: Number(max) }
}

/** What is told of an entry, at a time of the database. */
export const toRecord = (row: EntryRow, time: Date): EntryRecord => {
  const parsed = parse(row.name, row.expression, row.time_zone)
  const calendar =
    !row.paused && row.live && Result.isSuccess(parsed) && parsed.success._tag === "Calendar"
      ? parsed.success
      : undefined
  return {
    name: row.name,
    source: row.source,
    expression: row.expression,
    timeZone: row.time_zone,
    worker: row.worker,
    queue: row.queue,
    args: row.args,
    catchUp: decodeCatchUp(row.catch_up),
    paused: row.paused,
    lastFire: row.fired_at === null ? undefined : DateTime.fromDateUnsafe(row.fired_at),
    nextFire: calendar === undefined ? undefined : DateTime.makeUnsafe(calendar.next(time.getTime()))
  }
}
