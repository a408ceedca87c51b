/**
 * Inserting jobs: checked one by one, written together, told of when they are committed.
 *
 * Jobs without a unique key, and those that wait for whoever is inserting the same, go in one statement however many they
 * are.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { JobEvent } from "../JobEvent.ts"
import { type Enqueued, InvalidJob, type NewJob, type UniqueBusy } from "../NewJob.ts"
import type { Client } from "./client.ts"
import { idOf } from "./database.ts"
import * as Insert from "./enqueueInsert.ts"
import { isUnique, parts, type Result, type Row, Rows, type Written } from "./enqueueRow.ts"
import * as Unique from "./enqueueUnique.ts"

export const make = (client: Client) => {
  const { database } = client
  const statements = Insert.make(database)
  const writeUnique = Unique.make(database, statements)

  /** Rows without keys: nothing can be in their way. */
  const writePlain = Effect.fnUntraced(function* (
    parts: ReadonlyArray<ReadonlyArray<Row>>,
    trace: string | null
  ): Effect.fn.Return<Written, SqlError> {
    const results: Array<Result> = []
    const queues = new Set<string>()
    for (const part of parts) {
      const inserted = yield* statements.insert(part, trace)
      for (let index = 0; index < part.length; index++) {
        const row = part[index]
        const job = inserted[index]
        if (row === undefined || job === undefined) return yield* Effect.die(new Error(unanswered))
        results.push({ _tag: "Inserted", id: idOf(job.id) })
        if (job.available) queues.add(row.job.queue)
      }
    }
    return { results, queues }
  })

  const write = (rows: ReadonlyArray<Row>, trace: string | null): Effect.Effect<Written, SqlError> => {
    if (rows.some(isUnique)) {
      const writing = writeUnique(rows, trace)
      return rows.length === 1 && rows.every(Unique.isUndemanding) ? writing : database.client.withTransaction(writing)
    }
    const divided = parts(rows)
    const writing = writePlain(divided, trace)
    return divided.length === 1 ? writing : database.client.withTransaction(writing)
  }

  /** After the commit, or at once where there is none to wait for. */
  const tell = (rows: ReadonlyArray<Row>, { queues, results }: Written) => {
    const events: Array<JobEvent> = []
    for (let index = 0; index < rows.length; index++) {
      const job = rows[index]?.job
      const result = results[index]
      if (job === undefined || (result?._tag !== "Inserted" && result?._tag !== "Conflict")) continue
      const { queue, worker } = job
      events.push({ _tag: "Enqueued", id: result.id, worker, queue, conflict: result._tag === "Conflict" })
    }
    return Effect.all(
      [
        Effect.forEach(queues, (queue) => client.signal({ _tag: "Jobs", queue }), { discard: true }),
        client.database.time === "clock" || rows.some(isSoon) ? client.signal({ _tag: "Due" }) : Effect.void,
        events.length === 0 ? Effect.void : client.emit(events)
      ],
      { discard: true }
    )
  }

  const insertAll = Effect.fnUntraced(function* (rows: ReadonlyArray<Row>) {
    if (rows.length === 0) return []
    const written = yield* write(rows, yield* traceparent)
    yield* tell(rows, written)
    return written.results
  })

  const enqueue = (job: NewJob): Effect.Effect<Enqueued, InvalidJob | UniqueBusy | SqlError> =>
    Effect.suspend(() => {
      const row = new Rows().check(job)
      if (row instanceof InvalidJob) return Effect.fail(row)
      return Effect.flatMap(insertAll([row]), ([result]) => {
        if (result === undefined) return Effect.die(new Error(unanswered))
        return result._tag === "Rejected" ? Effect.fail(result.error) : Effect.succeed(result)
      })
    })

  const enqueueMany = (jobs: ReadonlyArray<NewJob>): Effect.Effect<ReadonlyArray<Result>, SqlError> =>
    Effect.suspend(() => {
      const check = new Rows()
      const checked = jobs.map((job) => check.check(job))
      const rows = checked.filter(isRow)
      return Effect.map(insertAll(rows), (results) => {
        if (rows.length === checked.length) return results
        const remaining = results.values()
        return checked.map((row): Result =>
          row instanceof InvalidJob
            ? { _tag: "Rejected", error: row }
            : // Every row has a result.
              (remaining.next().value as Result)
        )
      })
    })

  return { enqueue, enqueueMany }
}

// --------------------------------------------------------------------------------------------------------------------

const unanswered = "a job was neither inserted nor refused"

const isRow = (row: Row | InvalidJob): row is Row => !(row instanceof InvalidJob)

/** The span around the call, as W3C Trace Context writes it. */
const traceparent: Effect.Effect<string | null> = Effect.match(Effect.currentParentSpan, {
  onFailure: () => null,
  onSuccess: ({ sampled, spanId, traceId }) =>
    /^[0-9a-f]{32}$/.test(traceId) && /^[0-9a-f]{16}$/.test(spanId)
      ? `00-${traceId}-${spanId}-${sampled ? "01" : "00"}`
      : null
})

/** Whether it may be due before the next poll looks when something will be. */
const isSoon = ({ delay }: Row): boolean => delay !== undefined && delay > 0 && delay < 2_000
