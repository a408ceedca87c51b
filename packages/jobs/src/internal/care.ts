/**
 * Looking at jobs, and changing them by hand.
 *
 * What changes many jobs does so in batches, each one statement, which is a transaction of its own unless one is open. A
 * batch locks its jobs in the order of their ids, waits for whoever has them, and goes by what they are then: a job that
 * completed meanwhile is not cancelled, and a job that was claimed meanwhile is asked to end.
 */
import { Effect, Schema } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { activeStates, finishedStates, JobId, type State, states } from "../Job.ts"
import type { JobEvent } from "../JobEvent.ts"
import type { Shape } from "../Jobs.ts"
import type { Client } from "./client.ts"
import { list, names, releaseKeys } from "./columns.ts"
import { idOf, now, numbers } from "./database.ts"
import { compile } from "./filter.ts"
import { storable } from "./json.ts"
import { keysOf } from "./keys.ts"
import { active, finished, type RecordRow, toRecord } from "./record.ts"
import * as Reentry from "./reentry.ts"

/** No job has that number: it was deleted, or pruned from the history, or never existed. */
export class JobNotFound extends Schema.TaggedError<JobNotFound>("@coppice/jobs/JobNotFound")("JobNotFound", {
  id: JobId
}) {
  override get message(): string {
    return `There is no job ${this.id}: it was deleted, or has left the history`
  }
}

/** How many jobs one statement changes. */
const batch = 1_000

/** The longest reason that is kept. */
const reasonLimit = 8_000

/** A job that a statement changed. */
interface Changed {
  readonly id: number
  readonly worker: string
  readonly queue: string
}

export const make = (client: Client): Pick<Shape, "get" | "list" | "cancel" | "retry" | "delete"> => {
  const { database } = client
  const jobs = `${database.schema}.jobs`
  const history = `${database.schema}.jobs_history`

  const one = `
    select ${active} from ${jobs} j where j.id = $1::text::bigint
     union all
    select ${finished} from ${history} j where j.id = $1::text::bigint`

  const cancellation = (condition: string) => `
    with x as materialized (
      select j.id, j.worker, j.queue, j.state from ${jobs} j
       where j.id > $2::text::bigint and ${condition}
       order by j.id limit ${batch}
         for no key update
    ), d as (
      delete from ${jobs} j where j.id = any(array(select id from x where state <> 'executing')) returning j.*
    ), keys as (${releaseKeys(database.schema, "d", "'cancelled'")}
    ), h as (
      insert into ${history} (id, state, finished_at, ${names})
      select d.id, 'cancelled', ${now},
             ${list("d")
               .replace("d.errors", cancelled("d"))
               .replace("d.cancel_requested_at", `coalesce(d.cancel_requested_at, ${now})`)}
        from d
    ), asked as (
      update ${jobs} j
         set cancel_requested_at = coalesce(j.cancel_requested_at, ${now}), cancel_reason = coalesce(j.cancel_reason, $3)
       where j.id = any(array(select id from x where state = 'executing'))
    )
    select x.id::float8 as id, x.worker, x.queue, x.state = 'executing' as executing from x order by x.id`

  const deletion = (table: string, columns: string, exact: string, condition: string) => `
    with x as materialized (
      select j.id, j.worker, j.queue, j.unique_key${columns} from ${table} j
       where j.id > $1::text::bigint and ${condition}
       order by j.id limit ${batch}
         for update
    ), d as (
      delete from ${table} j where j.id = any(array(select id from x)) ${exact}
    ), k as (${keysOf(database.schema, "x")}
    )
    select x.id::float8 as id, x.worker, x.queue from x order by x.id`

  /** Deletes what matches in one of the tables; answers how many. */
  const deleteFrom = (statement: string, params: ReadonlyArray<unknown>) =>
    inBatches(
      (after) => database.run<Changed>(statement, [String(after), ...params]),
      (rows) => Effect.as(client.emit(rows.map((row): JobEvent => ({ _tag: "Deleted", ...subject(row) }))), rows.length)
    )

  const reentry = Reentry.make(database, batch)
  /** Retries what matches in one of the tables, and adds the ids to those that are given. */
  const retryIn = (statement: string, params: ReadonlyArray<unknown>, ids: Array<number>) =>
    inBatches(
      (after) => database.timed<Reentry.Retried>(statement, [String(after), ...params]),
      Effect.fnUntraced(function* (rows) {
        const retried = rows.filter((row) => row.retried)
        for (const { id } of retried) ids.push(id)
        for (const queue of new Set(retried.map((row) => row.queue))) yield* client.signal({ _tag: "Jobs", queue })
        yield* client.emit(retried.map((row): JobEvent => ({ _tag: "Retried", ...subject(row) })))
        return retried.length
      })
    )

  return {
    get: Effect.fnUntraced(function* (id) {
      const [row] = Number.isSafeInteger(id) ? yield* database.run<RecordRow>(one, [String(id)]) : []
      // The number is what the caller says, whether it can be one of a job or not.
      if (row === undefined) return yield* Effect.fail(new JobNotFound({ id }, { disableChecks: true }))
      return toRecord(row)
    }),

    list: Effect.fnUntraced(function* (filter = {}, { before, limit = 100 } = {}) {
      const { active: inJobs, finished: inHistory, params } = compile(filter, 3, states)
      if (before !== undefined && !Number.isSafeInteger(before)) return []
      const end = `order by j.id desc limit $2::int`
      const older = `j.id < $1::text::bigint`
      const parts = [
        ...(inJobs === undefined ? [] : [`(select ${active} from ${jobs} j where ${older} and ${inJobs} ${end})`]),
        ...(inHistory === undefined
          ? []
          : [`(select ${finished} from ${history} j where ${older} and ${inHistory} ${end})`])
      ]
      if (parts.length === 0) return []
      const rows = yield* database.run<RecordRow>(`select * from (${parts.join(" union all ")}) j ${end}`, [
        String(before ?? Number.MAX_SAFE_INTEGER),
        limit > 0 ? Math.trunc(Math.min(limit, maxLimit)) : 0,
        ...params
      ])
      return rows.map(toRecord)
    }),

    cancel: Effect.fnUntraced(function* (filter, reason = "cancelled on request") {
      const { active, params } = compile(filter, 4, activeStates)
      if (active === undefined) return { cancelled: 0, requested: 0 }
      const kept = storable(reason, reasonLimit)
      const statement = cancellation(active)
      const totals = { cancelled: 0, requested: 0 }
      yield* inBatches(
        (after) =>
          database.timed<Changed & { readonly executing: boolean }>(statement, [String(after), kept, ...params]),
        Effect.fnUntraced(function* (rows) {
          const ended = rows.filter((row) => !row.executing)
          totals.cancelled += ended.length
          totals.requested += rows.length - ended.length
          if (ended.length < rows.length) yield* client.signal({ _tag: "Cancel" })
          yield* client.emit(ended.map((row): JobEvent => ({ _tag: "Cancelled", reason: kept, ...subject(row) })))
          return rows.length
        })
      )
      return totals
    }),

    // Finished jobs second: one that finishes while the others are looked at is still found. One that is among those others
    // has been retried, also if it has run to its end since.
    retry: Effect.fnUntraced(function* (filter) {
      const { active, finished, params } = compile(filter, 3, retryable)
      const ids: Array<number> = []
      const waiting = active === undefined ? none : yield* retryIn(reentry.waiting(active), params, ids)
      if (finished === undefined) return { retried: waiting.counted, conflicts: waiting.found - waiting.counted }
      const others = `${finished} and j.id not in (select unnest($${params.length + 3}::text::bigint[]))`
      const back = yield* retryIn(reentry.finished(others), [...params, numbers(ids)], [])
      const retried = waiting.counted + back.counted
      return { retried, conflicts: waiting.found + back.found - retried }
    }),

    delete: Effect.fnUntraced(function* (filter) {
      const { active, finished, params } = compile(filter, 2, deletable)
      const waiting = active === undefined ? none : yield* deleteFrom(deletion(jobs, "", "", active), params)
      const rest =
        finished === undefined
          ? none
          : yield* deleteFrom(deletion(history, ", j.finished_at", Reentry.within("x"), finished), params)
      return waiting.counted + rest.counted
    })
  }
}

/** Executing jobs are left alone. */
const deletable: ReadonlyArray<State> = states.filter((state) => state !== "executing")
/** Available ones need nothing. */
const retryable: ReadonlyArray<State> = ["scheduled", "retryable", ...finishedStates]

/** The largest number of rows that a statement may be asked for. */
const maxLimit = 2 ** 31 - 1

const none = { found: 0, counted: 0 }

const subject = ({ id, queue, worker }: Changed) => ({ id: idOf(id), worker, queue })

/** Runs a statement for the jobs after the last of the batch before, until one is not full. */
const inBatches = Effect.fnUntraced(function* <Row extends Changed>(
  next: (after: number) => Effect.Effect<ReadonlyArray<Row>, SqlError>,
  each: (rows: ReadonlyArray<Row>) => Effect.Effect<number>
) {
  let [found, counted, after] = [0, 0, 0]
  for (;;) {
    const rows = yield* next(after)
    const last = rows.at(-1)
    if (last === undefined) return { found, counted }
    found += rows.length
    counted += yield* each(rows)
    after = last.id
    if (rows.length < batch) return { found, counted }
  }
})

/** The errors of a job, and the reason `$3` why it was cancelled. */
const cancelled = (job: string) => `
  ${job}.errors || jsonb_build_array(jsonb_build_object(
    'at', to_char(${now} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'attempt', ${job}.attempt, 'kind', 'cancelled', 'message', $3::text))`
