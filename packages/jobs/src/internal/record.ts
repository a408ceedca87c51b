/** Jobs as the database has them, of both tables. */
import { DateTime, type Schema } from "effect"
import { type AttemptError, type JobRecord, type State } from "../Job.ts"
import { idOf, type Timestamp } from "./database.ts"

export interface RecordRow {
  readonly id: number
  readonly state: State
  readonly worker: string
  readonly queue: string
  readonly args: Schema.Json
  readonly args_version: number
  readonly attempt: number
  readonly max_attempts: number
  readonly priority: number
  readonly tags: ReadonlyArray<string>
  readonly meta: Readonly<Record<string, Schema.Json>>
  readonly errors: ReadonlyArray<AttemptError>
  readonly result: Schema.Json
  readonly recorded: boolean
  readonly lease: number
  readonly snoozes: number
  readonly rescues: number
  readonly partition_key: string | null
  readonly cancel_requested_at: Timestamp | null
  readonly inserted_at: Timestamp
  readonly scheduled_at: Timestamp
  readonly attempted_at: Timestamp | null
  readonly finished_at: Timestamp | null
}

const both = `
  j.id::float8 as id, j.state, j.worker, j.queue, j.args, j.args_version, j.attempt, j.max_attempts, j.priority, j.tags,
  j.meta, j.errors, j.lease::float8 as lease, j.snoozes, j.rescues, j.partition_key, j.cancel_requested_at,
  j.inserted_at, j.scheduled_at, j.attempted_at`

/** A `RecordRow` of a job `j` that is not finished. */
export const active = `${both}, null::jsonb as result, false as recorded, null::timestamptz as finished_at`

/** A `RecordRow` of a job `j` of the history. */
export const finished = `${both}, j.result, j.result is not null as recorded, j.finished_at`

export const toRecord = (row: RecordRow): JobRecord => ({
  id: idOf(row.id),
  state: row.state,
  worker: row.worker,
  queue: row.queue,
  args: row.args,
  argsVersion: row.args_version,
  attempt: row.attempt,
  maxAttempts: row.max_attempts,
  priority: row.priority,
  tags: row.tags,
  meta: row.meta,
  errors: row.errors,
  // A recorded `null` comes as null too.
  result: row.recorded ? row.result : undefined,
  lease: Number(row.lease),
  snoozes: row.snoozes,
  rescues: row.rescues,
  partition: row.partition_key ?? undefined,
  cancelRequestedAt: instant(row.cancel_requested_at),
  insertedAt: DateTime.toUtc(DateTime.makeUnsafe(row.inserted_at)),
  scheduledAt: DateTime.toUtc(DateTime.makeUnsafe(row.scheduled_at)),
  attemptedAt: instant(row.attempted_at),
  finishedAt: instant(row.finished_at)
})

const instant = (at: Timestamp | null) => (at === null ? undefined : DateTime.toUtc(DateTime.makeUnsafe(at)))
