/**
 * Entries of the crontab: checking them, and how the database has them.
 */
import { DateTime, Effect, Result, type Schema } from "effect"
import { type CatchUp, type Entry, type EntryRecord, InvalidEntry } from "../Crontab.ts"
import { InvalidJob, type NewJob } from "../NewJob.ts"
import { parse, type Schedule } from "./cronSchedule.ts"
import type { Timestamp } from "./database.ts"
import { Rows } from "./enqueueRow.ts"
import { problemOf } from "./json.ts"

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

/** What a row of `cron_entries` says of when an entry fires. */
export interface TimingRow {
  readonly name: string
  readonly source: "static" | "dynamic"
  readonly expression: string
  readonly time_zone: string
  readonly catch_up: string
  readonly paused: boolean
  readonly last_fire: Timestamp | null
}

/** A row of `cron_entries`. */
export interface EntryRow extends TimingRow, Spec {
  readonly fired_at: Timestamp | null
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
    const problem = catchUpProblem(catchUp)
    if (problem !== undefined) return yield* Result.fail(new InvalidEntry({ name, problem }))
    return { expression: expression.trim(), timeZone, catchUp, schedule }
  })

const catchUpProblem = (catchUp: CatchUp | null): string | undefined => {
  if (catchUp === "skip" || catchUp === "latest") return undefined
  const max = typeof catchUp === "object" ? catchUp?.all : undefined
  return Number.isInteger(max) && max !== undefined && max >= 1 && max <= mostCaughtUp
    ? undefined
    : `cannot make up for ${String(max ?? catchUp)}: use "skip", "latest" or { all: a whole number from 1 to ${mostCaughtUp} }`
}

const checkName = (name: string): Result.Result<string, InvalidEntry> => {
  if (typeof name !== "string") return Result.fail(new InvalidEntry({ name: "", problem: "needs a text as its name" }))
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

/** Checks a job as `Jobs.enqueue` does. What makes it unique and when it is scheduled is not its own here. */
export const checkJob = (job: NewJob): Result.Result<Spec, InvalidJob> => {
  const checked = new Rows().check({ ...job, unique: undefined, scheduleAt: undefined, scheduleIn: undefined })
  if (checked instanceof InvalidJob) return Result.fail(checked)
  if (job.args._tag === "Invalid") return Result.fail(job.args.error)
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
export const toRecord = (row: EntryRow, time: Timestamp): EntryRecord => {
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
    lastFire: row.fired_at === null ? undefined : DateTime.toUtc(DateTime.makeUnsafe(row.fired_at)),
    nextFire:
      calendar === undefined
        ? undefined
        : DateTime.makeUnsafe(calendar.next(DateTime.toEpochMillis(DateTime.makeUnsafe(time))))
  }
}
