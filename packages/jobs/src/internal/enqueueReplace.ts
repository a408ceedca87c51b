/**
 * What a job that conflicts changes of the existing one.
 */
import type { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { releaseKeys } from "./columns.ts"
import { type Database, now } from "./database.ts"
import type { Row } from "./enqueueRow.ts"
import { type ReplaceState, replaceBit } from "./unique.ts"

/** A job that is there, and the row that conflicts with it. */
export interface Replacement {
  readonly id: number
  readonly row: Row
}

/** A job that was changed. */
export interface Replaced {
  readonly id: number
  readonly queue: string
  readonly available: boolean
}

/** Changes jobs, each at most once, if they are in a state that the row names. Answers those that were. */
export const make = (database: Database) => {
  const statement = replaceStatement(database.schema)
  return (replacements: ReadonlyArray<Replacement>): Effect.Effect<ReadonlyArray<Replaced>, SqlError> =>
    database.timed<Replaced>(statement, [
      JSON.stringify(
        replacements.map(({ id, row: { args, delay, due, job, unique } }) => ({
          id,
          ...unique?.rule.replace,
          worker: job.worker,
          args_version: job.argsVersion,
          args,
          queue: job.queue,
          priority: job.priority,
          max_attempts: job.maxAttempts,
          tags: job.tags,
          meta: job.meta,
          partition: job.partition,
          due,
          delay
        }))
      )
    ])
}

/** Whether there is anything to change. */
export const changes = (row: Row): boolean => row.unique?.rule.replace !== undefined

const states: ReadonlyArray<ReplaceState> = ["scheduled", "available", "retryable"]

const millis = "interval '1 millisecond'"

const replaceStatement = (schema: string): string => {
  const wants = (field: keyof typeof replaceBit) => `x.bits & ${replaceBit[field]} <> 0`
  const either = (field: keyof typeof replaceBit, column: string) =>
    `case when ${wants(field)} then x.new_${column} else j.${column} end`
  // Args belong to their worker: with other fields than the worker's name, a job of another may have the key.
  const args = `${wants("args")} and x.new_worker = j.worker`
  const when = either("scheduledAt", "scheduled_at")
  const moved = `${wants("queue")} and x.new_queue <> j.queue or ${wants("priority")} and x.new_priority <> j.priority`
  return `
    with new as materialized (
      select n.*, coalesce(timestamptz 'epoch' + due * ${millis}, ${now} + delay * ${millis}, ${now}) as scheduled_at
        from jsonb_to_recordset($2::text::jsonb) as n(
               id bigint, scheduled smallint, available smallint, retryable smallint, worker text, args_version smallint,
               args text, queue text, priority smallint, max_attempts int, tags text[], meta jsonb, partition text,
               due float8, delay float8
             )
    ), x as materialized (
      select j.id, n.worker as new_worker, n.args_version as new_args_version, n.args::jsonb as new_args,
             n.queue as new_queue, n.priority as new_priority, n.max_attempts as new_max_attempts, n.tags as new_tags,
             n.meta as new_meta, n.partition as new_partition, n.scheduled_at as new_scheduled_at, ${bits} as bits
        from ${schema}.jobs j join new n on j.id = n.id
       where ${bits} <> 0
       order by j.id
         for no key update of j
    ), changed as (
      update ${schema}.jobs j set
        args = case when ${args} then x.new_args else j.args end,
        args_version = case when ${args} then x.new_args_version else j.args_version end,
        partition_key = case when ${args} then x.new_partition else j.partition_key end,
        queue = ${either("queue", "queue")},
        priority = ${either("priority", "priority")},
        max_attempts = case when ${wants("maxAttempts")} then greatest(x.new_max_attempts, j.attempt + 1)
                            else j.max_attempts end,
        tags = ${either("tags", "tags")},
        meta = ${either("meta", "meta")},
        scheduled_at = ${when},
        state = case when not (${wants("scheduledAt")}) then j.state
                     when x.new_scheduled_at <= ${now} then 'available'
                     when j.state = 'retryable' then 'retryable'
                     else 'scheduled' end,
        queued_at = case when ${wants("scheduledAt")} and j.state <> 'available' and x.new_scheduled_at <= ${now}
                           or j.state = 'available' and (${moved}) then ${now}
                         else j.queued_at end
        from x
       where j.id = x.id
      returning j.id, j.queue, j.state, j.unique_key
    ), keys as (${releaseKeys(schema, "changed")}
    )
    select id::float8 as id, queue, state = 'available' as available from changed`
}

/** What may be changed in the state that the job is in. */
const bits = `case j.state ${states.map((state) => `when '${state}' then coalesce(n.${state}, 0)`).join(" ")} else 0 end`
