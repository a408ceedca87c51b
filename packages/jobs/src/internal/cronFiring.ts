/**
 * The statements of the loop: one that reads the crontab, and one that fires.
 *
 * Firing moves `last_fire` of the entry and inserts the jobs in one statement, so an instant makes its job exactly once
 * over any number of nodes. Of those that try at the same time one gets the row; the others do not wait for it, because
 * who holds it may be a long transaction that changes the entry, but look again: then there is nothing left to do, or
 * everything if the first did not commit. What fails leaves `last_fire` where it was.
 */
import { DateTime, Duration, Effect, Metric } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Client } from "./client.ts"
import {
  type TimingRow,
  encodeCatchUp,
  type Prepared,
  type Spec,
  specColumns,
  specFrom,
  specParams
} from "./cronEntry.ts"
import { type Database, idOf, now, type Timestamp } from "./database.ts"

/** A job that an instant made. */
export interface FiredRow {
  readonly id: number
  readonly worker: string
  readonly queue: string
  readonly name: string
  readonly cron_at: Timestamp
  /** Milliseconds since the instant. */
  readonly lag: number
}

/** The crontab at a time of the database. */
export interface Loaded {
  /** In milliseconds since the epoch. */
  readonly time: number
  readonly rows: ReadonlyArray<TimingRow>
}

/** What is to be done about the start of this node. */
export interface RebootOutcome {
  /** `wait` while an older node was not heard of since and does not count as dead yet, or somebody holds the entry. */
  readonly verdict: "first" | "not first" | "wait"
  readonly fired: ReadonlyArray<FiredRow>
}

/** The columns of a `TimingRow`. */
export const timingColumns = ["name", "source", "expression", "time_zone", "catch_up", "paused", "last_fire"] as const

/** The insert of jobs from rows `t` with the columns of a spec, a name, and an instant `tick`. */
export const insertJobs = (schema: string, spec: ReadonlyArray<string>, from: string): string => `
  insert into ${schema}.jobs
    (state, queued_at, inserted_at, scheduled_at, cron_name, cron_at, ${specColumns.join(", ")})
  select 'available', ${now}, ${now}, t.tick, t.name, t.tick, ${spec.join(", ")} from ${from} t order by t.tick
  returning id::float8 as id, worker, queue, cron_name as name, cron_at,
            (extract(epoch from ${now} - cron_at) * 1000)::float8 as lag`

/** The spec that the row has. */
export const rowSpec: ReadonlyArray<string> = specColumns.map((column) => `t.${column}`)

export const make = (database: Database) => {
  const { schema } = database

  const register = `
    insert into ${schema}.cron_entries as c
      (name, source, expression, time_zone, catch_up, last_fire, seen_at, inserted_at, updated_at, ${specColumns.join(", ")})
    values ($2, 'static', $3, $4, $5, case when $6 then null else ${now} end, ${now}, ${now}, ${now}, ${specFrom(7).join(", ")})
    on conflict (name) do update set
      source = 'static', expression = excluded.expression, time_zone = excluded.time_zone, catch_up = excluded.catch_up,
      last_fire = coalesce(c.last_fire, excluded.last_fire), seen_at = excluded.seen_at, updated_at = excluded.updated_at,
      ${specColumns.map((column) => `${column} = excluded.${column}`).join(", ")}`

  // Says now and then that the entries of this node are still in somebody's code.
  const load = `
    with mine as materialized (
      select name from ${schema}.cron_entries
       where source = 'static' and name = any($2::text[]) and seen_at < ${now} - interval '10 minutes'
       order by name for no key update skip locked
    ), seen as (
      update ${schema}.cron_entries c set seen_at = ${now} from mine where c.name = mine.name
    )
    select ${now} as time, ${timingColumns.map((column) => `c.${column}`).join(", ")}
      from (select) one left join ${schema}.cron_entries c on c.source = 'dynamic' or c.name = any($2::text[])
     order by c.name`

  // The row that is locked is the newest, whatever the snapshot of the statement says.
  const fire = (guard: string, spec: ReadonlyArray<string>) => `
    with e as materialized (
      select * from ${schema}.cron_entries
       where name = $2 and not paused and ${guard}
         for no key update skip locked
    ), t as materialized (
      select e.*, i.tick from e cross join unnest($3::timestamptz[]) i(tick)
       where i.tick <= ${now} and (e.last_fire is null or i.tick > e.last_fire)
    ), f as (
      update ${schema}.cron_entries c set last_fire = m.tick, fired_at = m.tick
        from (select max(tick) as tick from t) m where c.name = $2 and m.tick is not null
    )
    ${insertJobs(schema, spec, "t")}`
  const fireStatic = fire("true", specFrom(4))
  // Another node may have changed it just now, and then these are not its instants.
  const fireDynamic = fire("source = 'dynamic' and expression = $4 and time_zone = $5", rowSpec)

  // The older nodes decide: one that was heard of since this node started was there at the start, one that stopped before
  // was not, and one that is silent is waited for until it counts as dead. That the entry has not fired since this node
  // started, in the same statement, is what makes it fire once: also of nodes that start at the same time.
  const reboot = (guard: string, spec: ReadonlyArray<string>) => `
    with me as materialized (
      select id, started_at from ${schema}.nodes where id = $3::uuid
    ), v as materialized (
      select me.started_at as since,
             case when bool_or(greatest(o.heartbeat_at, o.stopped_at) >= me.started_at) then 'not first'
                  when bool_or(o.stopped_at is null and o.heartbeat_at >= ${now} - $4::float8 * interval '1 millisecond') then 'wait'
                  else 'first' end as verdict
        from me left join ${schema}.nodes o on (o.started_at, o.id) < (me.started_at, me.id)
       group by me.started_at
    ), e as materialized (
      select * from ${schema}.cron_entries
       where name = $2 and not paused and ${guard}
         for no key update skip locked
    ), t as materialized (
      select e.*, v.since as tick from e, v
       where v.verdict = 'first' and (e.last_fire is null or e.last_fire < v.since)
    ), f as (
      update ${schema}.cron_entries c set last_fire = ${now}, fired_at = t.tick from t where c.name = t.name
    ), i as (${insertJobs(schema, spec, "t")}
    )
    select case when exists (select from ${schema}.cron_entries c where name = $2 and not paused)
                     and not exists (select from e) then 'wait'
                else coalesce((select verdict from v), 'wait') end as verdict, i.*
      from (select) one left join i on true`
  const rebootStatic = reboot("true", specFrom(5))
  const rebootDynamic = reboot("source = 'dynamic' and expression = $5 and time_zone = $6", rowSpec)

  return {
    /** Tells the database of an entry of the code. */
    register: ({ name, expression, timeZone, catchUp, schedule, spec }: Prepared): Effect.Effect<void, SqlError> =>
      Effect.asVoid(
        database.timed(register, [
          name,
          expression,
          timeZone,
          encodeCatchUp(catchUp),
          schedule._tag === "Reboot",
          ...specParams(spec)
        ])
      ),

    /** Reads all dynamic entries, and the static ones of these names. */
    load: (names: ReadonlyArray<string>): Effect.Effect<Loaded, SqlError> =>
      Effect.map(database.timed<LoadRow>(load, [names]), (rows) => ({
        // There is always a row, which has no name if there are no entries.
        time: DateTime.toEpochMillis(DateTime.makeUnsafe(rows[0]?.time ?? 0)),
        rows: rows.flatMap((row) => (row.name === null ? [] : [row]))
      })),

    /** Fires an entry for those of the instants that are due and later than what it fired last. */
    fire: (
      row: TimingRow,
      own: Spec | undefined,
      instants: ReadonlyArray<number>
    ): Effect.Effect<ReadonlyArray<FiredRow>, SqlError> => {
      const ticks = `{${instants.map((at) => DateTime.formatIso(DateTime.makeUnsafe(at))).join(",")}}`
      return own === undefined
        ? database.timed<FiredRow>(fireDynamic, [row.name, ticks, row.expression, row.time_zone])
        : database.timed<FiredRow>(fireStatic, [row.name, ticks, ...specParams(own)])
    },

    /** Fires an entry if the start of this node was the start of the cluster. */
    reboot: (
      row: TimingRow,
      own: Spec | undefined,
      node: string,
      expiry: Duration.Duration
    ): Effect.Effect<RebootOutcome, SqlError> => {
      const params = [row.name, node, Duration.toMillis(expiry)]
      return Effect.map(
        own === undefined
          ? database.timed<RebootRow>(rebootDynamic, [...params, row.expression, row.time_zone])
          : database.timed<RebootRow>(rebootStatic, [...params, ...specParams(own)]),
        (rows) => ({
          verdict: rows[0]?.verdict ?? "wait",
          fired: rows.flatMap((row) => (row.id === null ? [] : [row]))
        })
      )
    }
  }
}

/** Tells of jobs that entries made. */
export const tell = (client: Client, rows: ReadonlyArray<FiredRow>): Effect.Effect<void> =>
  Effect.gen(function* () {
    if (rows.length === 0) return
    yield* client.emit(
      rows.map(({ cron_at, id, name, queue, worker }) => {
        const tick = { name, at: DateTime.toUtc(DateTime.makeUnsafe(cron_at)) }
        return { _tag: "CronFired", id: idOf(id), worker, queue, tick }
      })
    )
    for (const queue of new Set(rows.map((row) => row.queue))) yield* client.signal({ _tag: "Jobs", queue })
    for (const row of rows) yield* Metric.update(lag, Number(row.lag))
  })

const lag = Metric.histogram("coppice_jobs_cron_lag_ms", {
  description: "How long after its instant an entry of the crontab fired",
  boundaries: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 60_000, 3_600_000, 86_400_000]
})

type LoadRow = { readonly time: Timestamp } & (TimingRow | { readonly name: null })
type RebootRow = { readonly verdict: RebootOutcome["verdict"] } & (FiredRow | { readonly id: null })
