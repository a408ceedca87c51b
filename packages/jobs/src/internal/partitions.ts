/**
 * The partitions of the history: one per day (UTC), made some days ahead, and detached and dropped as a whole.
 *
 * Each step is a short transaction that waits for locks only briefly, because whoever comes after it waits behind it; what
 * does not get its locks is done another time. What finishes before its day has a partition is in the default one, which
 * every statement that finishes jobs can rely on.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { names } from "./columns.ts"
import { type Database, now } from "./database.ts"

/** How many days after today have their partition. */
const daysAhead = 3

/** How long a step waits for a lock. */
const lockTimeout = "200ms"

/** How many rows are moved out of the default partition to make another; where there are more, they stay there. */
const movable = 10_000

/** What became of partitions that were missing. */
export interface Ensured {
  readonly made: number
  /** They cannot be made now: because of locks or rights, or of too many jobs in the default partition. */
  readonly postponed: number
}

interface Day {
  readonly name: string
  readonly from: string
  readonly to: string
  /** Whether jobs that finish now may belong there. */
  readonly current: boolean
}

/** Makes the partitions of today and the days after it. Any number of nodes may do it at once: one does. */
export const ensure = Effect.fnUntraced(function* (database: Database): Effect.fn.Return<Ensured, SqlError> {
  const missing = yield* database.timed<Day>(
    `select to_char(day, '"jobs_history_"YYYYMMDD') as name,
            to_char(day, 'YYYY-MM-DD"T00:00:00Z"') as from, to_char(day + 1, 'YYYY-MM-DD"T00:00:00Z"') as to,
            day::timestamp at time zone 'UTC' <= ${now} + interval '1 minute' as current
       from (select (${now} at time zone 'UTC')::date + n as day from generate_series(0, ${daysAhead}) n) days
      where not exists (${table(database, `to_char(day, '"jobs_history_"YYYYMMDD')`)})
      order by day`
  )
  let made = 0
  let postponed = 0
  for (const day of missing) {
    const outcome = yield* alone(database, make(database, day))
    if (outcome === "busy") break
    if (outcome === "made") made++
    if (outcome === "postponed") postponed++
  }
  return { made, postponed }
})

/** A condition on a partition, as a part of a statement. */
export type Condition = (partition: string) => string

/** The partitions of days that are over, oldest first, for which a condition holds now; none if another node is at it. */
export const past = (database: Database, holds: Condition): Effect.Effect<ReadonlyArray<string>, SqlError> => {
  const { schema } = database
  return Effect.gen(function* () {
    const attached = yield* database.timed<{ readonly name: string }>(
      `select relname as name
         from pg_inherits join pg_class on pg_class.oid = inhrelid
        where inhparent = '${schema}.jobs_history'::regclass and relname ~ '^jobs_history_[0-9]{8}$'
          and substr(relname, 14) < to_char(${now} at time zone 'UTC', 'YYYYMMDD')
        order by relname`
    )
    if (attached.length === 0) return []
    const each = attached.map(({ name }) => `select '${name}' as name where ${holds(`${schema}.${name}`)}`)
    const held = yield* database.run<{ readonly name: string }>(each.join(" union all "))
    return held.map(({ name }) => name)
  }).pipe(
    (step) => alone(database, step),
    Effect.map((names) => (typeof names === "string" ? [] : names))
  )
}

/** Detaches a partition if a condition still holds when nobody can write to it any more. */
export const detach = (
  database: Database,
  name: string,
  holds: Condition
): Effect.Effect<"detached" | Undone, SqlError> => {
  const { schema } = database
  const partition = `${schema}.${name}`
  return alone(
    database,
    Effect.gen(function* () {
      const attached = yield* database.run(`${table(database, `'${name}'`)} and relispartition`)
      if (attached.length === 0) return "unneeded" as const
      // The locks come first, so that nothing has to be undone.
      yield* database.run(`lock table only ${schema}.jobs_history in access exclusive mode`)
      yield* database.run(`lock table only ${partition} in access exclusive mode`)
      const held = yield* database.run(`select where ${holds(partition)}`)
      if (held.length === 0) return "unneeded" as const
      yield* database.run(`alter table ${schema}.jobs_history detach partition ${partition}`)
      // Under its own name it could be one that somebody has detached to keep it.
      yield* database.run(`alter table ${partition} rename to ${name.replace(daily, pruned)}`)
      return "detached" as const
    })
  )
}

/** Drops what was detached, and the unique keys of the jobs in it, at leisure: nobody else knows of it any more. */
export const drop = Effect.fnUntraced(function* (
  database: Database
): Effect.fn.Return<{ readonly jobs: number; readonly partitions: number; readonly keys: number }, SqlError> {
  const { schema } = database
  const detached = yield* database.run<{ readonly name: string }>(
    `select relname as name from pg_class
      where relnamespace = '${schema}'::regnamespace and relname ~ '^${pruned}[0-9]{8}$' and relkind = 'r'
      order by relname`
  )
  const total = { jobs: 0, partitions: 0, keys: 0 }
  for (const { name } of detached) {
    const dropped = yield* alone(
      database,
      Effect.gen(function* () {
        const found = yield* database.run(table(database, `'${name}'`))
        if (found.length === 0) return "unneeded" as const
        // A backup may still be reading it.
        yield* database.run(`lock table ${schema}.${name} in access exclusive mode`)
        const [row] = yield* database.run<{ readonly jobs: number; readonly keys: number }>(`
          with k as (
            delete from ${schema}.unique_keys u using ${schema}.${name} j
             where u.key = j.unique_key and u.job_id = j.id
            returning u.key
          )
          select (select count(*) from ${schema}.${name})::float8 as jobs, (select count(*) from k)::float8 as keys`)
        yield* database.run(`drop table ${schema}.${name}`)
        return row ?? "unneeded"
      })
    )
    if (dropped === "busy") break
    if (typeof dropped === "string") continue
    total.jobs += dropped.jobs
    total.keys += dropped.keys
    total.partitions++
  }
  return total
})

/** What became of a step that was not done: another node is at it, it was not needed, or it cannot be done now. */
export type Undone = "busy" | "unneeded" | "postponed"

/** The condition that nobody else is changing partitions now, as a part of a statement. It lasts until the transaction ends. */
export const nobodyElse = (database: Database): string =>
  `pg_try_advisory_xact_lock(hashtextextended('coppice/jobs/${database.name}/history', 0))`

const daily = "jobs_history_"
const pruned = "jobs_history_pruned_"

/** A table by its name, an expression. Not by `to_regclass`, which may remember how it was before a lock was obtained. */
const table = ({ schema }: Database, name: string): string =>
  `select from pg_class where relnamespace = '${schema}'::regnamespace and relname = ${name}`

const make = Effect.fnUntraced(function* (database: Database, day: Day) {
  const { schema } = database
  const history = `${schema}.jobs_history`
  const partition = `${schema}.${day.name}`
  const inDay = `finished_at >= '${day.from}' and finished_at < '${day.to}'`
  const found = yield* database.run(table(database, `'${day.name}'`))
  if (found.length > 0) return "unneeded" as const
  yield* database.run(`create table ${partition} (like ${history} including all)`)
  // Who finishes jobs or reads them while their day's partition is being attached has chosen the default one already: the
  // one would be refused there, the other would not find what has moved. They have to wait before they choose. Of other
  // days there are no jobs yet, and everybody goes on.
  yield* database.run(`lock table only ${history} in ${day.current ? "access" : "share update"} exclusive mode`)
  yield* database.run(`lock table only ${history}_default in access exclusive mode`)
  const [{ n } = { n: 0 }] = yield* database.run<{ readonly n: number }>(
    `select count(*)::float8 as n from (select from ${history}_default where ${inDay} limit ${movable + 1}) rows`
  )
  if (n > (day.current ? movable : 0)) {
    yield* database.run(`drop table ${partition}`)
    return "postponed" as const
  }
  if (n > 0) {
    const columns = `id, state, finished_at, result, ${names}`
    yield* database.run(`
      with moved as (delete from ${history}_default where ${inDay} returning ${columns})
      insert into ${partition} (${columns}) select ${columns} from moved`)
  }
  yield* database.run(
    `alter table ${history} attach partition ${partition} for values from ('${day.from}') to ('${day.to}')`
  )
  return "made" as const
})

/**
 * Runs a step in a transaction, unless another node is at it. If it does not get its locks soon, or the role may not change
 * tables, it is undone: the queue works without it.
 */
const alone = <A>(database: Database, step: Effect.Effect<A, SqlError>): Effect.Effect<A | Undone, SqlError> =>
  database.run<{ readonly got: boolean }>(`select ${nobodyElse(database)} as got`).pipe(
    Effect.flatMap(([row]): Effect.Effect<A | Undone, SqlError> =>
      row?.got === true ? briefly(database, step) : Effect.succeed("busy")
    ),
    database.client.withTransaction,
    Effect.catchIf(
      ({ reason }) => reason._tag === "LockTimeoutError" || reason._tag === "AuthorizationError",
      (error) =>
        Effect.as(Effect.logDebug("A partition of the job history stays as it is for now", error), "postponed" as const)
    )
  )

/** Waits for locks only shortly, in the transaction that is open, whose own limit comes back after it. */
const briefly = <A>(database: Database, step: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
  Effect.gen(function* () {
    const set = `select set_config('lock_timeout', $1, true)`
    const [row] = yield* database.run<{ readonly before: string }>(`select current_setting('lock_timeout') as before`)
    yield* database.run(set, [lockTimeout])
    const result = yield* step
    yield* database.run(set, [row?.before ?? "0"])
    return result
  })
