/**
 * Writing what became of claimed jobs, many in one statement.
 *
 * Every line is fenced: it names the lease under which the job was run, and does nothing when somebody else has the job by
 * now. What comes back is what was written; the rest is lost, and is never written later.
 */
import { Effect, type Schema } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { list, names, releaseKeys } from "./columns.ts"
import { type Database, now, numbers } from "./database.ts"

/** Where a line wants its job to go. */
export type Destination = "completed" | "cancelled" | "discarded" | "retryable" | "scheduled" | "available"

/** What became of one job. */
export interface Line {
  readonly id: number
  readonly lease: number
  readonly to: Destination
  /** For `retryable` and `scheduled`: how long from now. */
  readonly delayMillis?: number
  /** Appended to the job's errors. */
  readonly error?: { readonly kind: string; readonly message: string; readonly node: string }
  /** The recorded answer, storable JSON. */
  readonly result?: Schema.Json
  /** Whether the attempt does not count: the job snoozed, or was not really tried. */
  readonly restoreAttempt?: boolean
}

/** What was written. A job whose cancellation was asked for, or that has no attempt left, ends instead of running again. */
export interface Settled {
  readonly id: number
  readonly state: Destination
  /** Why somebody wanted it to be cancelled. */
  readonly reason: string | null
}

/** How many errors a job keeps: the last ones. */
const keptErrors = 20

export const make = (database: Database) => {
  const { schema } = database

  // That it has a node says that it is executing. Said so, it cannot tempt the planner to walk the index of executing jobs,
  // which is full of dead entries, where the primary key finds each at once.
  const locked = (source: string, columns: string, others: string) => `
    select j.id, j.unique_key, ${columns}
      from ${source}
      join ${schema}.jobs j on j.id = s.id and j.lease = s.lease
     where j.leased_by is not null
     order by j.id
       for no key update of j ${others}`

  // The common case without a lock of its own: ids come in order, so rows are locked in order all the same. That they are,
  // matters against deadlocks alone: what decides is the lease, checked again after any wait. It stands where its job's id
  // does, which is found by halves; a join with the arrays would be planned for an empty table, as `among` says.
  const ending = (keys: string) => `
    with d as (
      delete from ${schema}.jobs j
       where j.id = any($2::bigint[]) and j.lease = ($3::bigint[])[width_bucket(j.id, $2::bigint[])] and j.leased_by is not null
      returning j.*
    ), ${keys} h as (
      insert into ${schema}.jobs_history (id, state, finished_at, ${names})
      select d.id, 'completed', ${now}, ${list("d")} from d returning id
    )
    select case when count(*) = cardinality($2::bigint[]) then null else array_agg(h.id::float8) end as ids,
           count(*)::int as n
      from h`
  const completion = ending("")
  const completionOfUnique = ending(`keys as (${releaseKeys(schema, "d", "'completed'")}\n    ),`)

  // An error entry is bounded in length where it is made, and in number here.
  const errors = (alias: string) => `
    case when l.error is null then ${alias}.errors
         else jsonb_path_query_array(
           ${alias}.errors || jsonb_build_array(
             jsonb_build_object('at', to_char(${now} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'attempt', ${alias}.attempt) || l.error),
           '$[last - ${keptErrors - 1} to last]')
    end`

  const ends = "('completed', 'cancelled', 'discarded')"
  const general = (others: string) => `
    with l as materialized (${locked(
      `jsonb_to_recordset($2::text::jsonb)
        s(id bigint, lease bigint, "to" text, delay float8, error jsonb, result jsonb, restore boolean, nothing boolean)`,
      `case when s."to" in ${ends} then s."to"
            when j.cancel_requested_at is not null then 'cancelled'
            when s."to" = 'retryable' and j.attempt >= j.max_attempts then 'discarded'
            when s."to" in ('retryable', 'scheduled') and s.delay <= 0 then 'available'
            else s."to" end as state,
       s.delay, j.cancel_reason as reason,
       case when j.cancel_reason is not null and (s."to" = 'cancelled' or s.error is null and s."to" not in ${ends})
            then coalesce(s.error, '{}') || jsonb_build_object('kind', 'cancelled', 'message', j.cancel_reason)
            else s.error end as error,
       case when s.nothing then 'null'::jsonb else s.result end as result, s.restore, s."to" as wanted`,
      others
    )}
    ), d as (
      delete from ${schema}.jobs j using l where j.id = l.id and l.state in ${ends} returning j.*, l.state as ended, l.error, l.result
    ), keys as (${releaseKeys(schema, "l")}
    ), h as (
      insert into ${schema}.jobs_history (id, state, finished_at, result, ${names})
      select l.id, l.ended, ${now}, l.result, ${list("l").replace("l.errors", errors("l"))} from d l
    ), u as (
      update ${schema}.jobs j
         set state = l.state, leased_by = null,
             attempt = case when l.restore then j.attempt - 1 else j.attempt end,
             snoozes = case when l.wanted = 'scheduled' then j.snoozes + 1 else j.snoozes end,
             scheduled_at = case when l.wanted in ('retryable', 'scheduled')
                                 then ${now} + make_interval(secs => l.delay / 1000.0) else j.scheduled_at end,
             queued_at = case when l.wanted in ('retryable', 'scheduled') then ${now} else j.queued_at end,
             errors = ${errors("j")}
        from l where j.id = l.id and l.state not in ${ends}
    )
    select l.id::float8 as id, l.state, l.reason from l`

  const passing = general("skip locked")
  const waiting = general("")

  const present = `
    select j.id::float8 as id from unnest($1::bigint[], $2::bigint[]) s(id, lease)
      join ${schema}.jobs j on j.id = s.id and j.lease = s.lease
     where j.leased_by is not null`

  return {
    /**
     * Ends jobs as completed, waiting for whoever has locked one; ids in ascending order, and whether any of them has a unique
     * key to give back. Answers the ids of those that still were ours.
     */
    complete: (
      ids: ReadonlyArray<number>,
      leases: ReadonlyArray<number>,
      unique: boolean
    ): Effect.Effect<ReadonlyArray<number>, SqlError> =>
      Effect.map(
        database.timed<{ readonly ids: ReadonlyArray<number> | null; readonly n: number }>(
          unique ? completionOfUnique : completion,
          [numbers(ids), numbers(leases)]
        ),
        ([row]) => (row?.n === ids.length ? ids : (row?.ids ?? []))
      ),
    /** Which jobs still are ours under these leases. */
    present: (
      ids: ReadonlyArray<number>,
      leases: ReadonlyArray<number>
    ): Effect.Effect<ReadonlySet<number>, SqlError> =>
      Effect.map(
        database.run<{ readonly id: number }>(present, [numbers(ids), numbers(leases)]),
        (rows) => new Set(rows.map(({ id }) => id))
      ),
    /** Writes lines of any kind, except those of jobs whose rows somebody has locked. */
    settle: (lines: ReadonlyArray<Line>): Effect.Effect<ReadonlyArray<Settled>, SqlError> =>
      database.timed<Settled>(passing, [JSON.stringify(lines.map(encode))]),
    /** Writes one line, and waits for whoever has locked its row. Undefined if the job is not ours any more. */
    settleOne: (line: Line): Effect.Effect<Settled | undefined, SqlError> =>
      Effect.map(database.timed<Settled>(waiting, [JSON.stringify([encode(line)])]), ([settled]) => settled)
  }
}

const encode = (line: Line) => ({
  id: line.id,
  lease: line.lease,
  to: line.to,
  delay: line.delayMillis ?? 0,
  error: line.error,
  result: line.result,
  // A record cannot tell a null that is JSON from none.
  nothing: line.result === null,
  restore: line.restoreAttempt ?? false
})
