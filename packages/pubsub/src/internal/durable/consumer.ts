/**
 * A consumer: one at a time over all nodes, whose place moves with what its handler writes, or not at all.
 *
 * A batch is a transaction that takes the consumer's lock first and moves its place last. The lock is the transaction's: who
 * has lost the one has lost the other, so nobody can commit who is not the only one any more. A connection on which nothing
 * is said for the lease is ended by the server, and that of a node that lives says something three times as often.
 *
 * The transaction has no number until its handler writes, so a handler that only waits holds back nobody's events.
 */
import { Cause, Context, Data, Effect, Metric, Result, type Schedule, Scope } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { From, Stored } from "../../DurableTopic.ts"
import type { Topic } from "../../Topic.ts"
import { EventsPruned, type UndecodableEvent } from "./errors.ts"
import { decode } from "./events.ts"
import { type Position, zero } from "./position.ts"
import { firstLookMillis, isMissed, type Reading } from "./reader.ts"
import type { ConsumerPage, Row, Store } from "./store.ts"
import type { Listener } from "./wakeUps.ts"

/** What a consumer does with events, checked and complete. */
export interface Plan<Event, E, R> {
  readonly topic: Topic<Event>
  readonly consumer: string
  readonly handler: (event: Stored<Event>) => Effect.Effect<void, E, R>
  readonly from: From
  readonly batchSize: number
  readonly leaseMillis: number
  readonly retry: Schedule.Schedule<unknown, unknown>
  readonly onUndecodable: (error: UndecodableEvent) => Effect.Effect<void, E | UndecodableEvent, R>
  readonly onPruned: (missed: EventsPruned) => Effect.Effect<void, E | EventsPruned, R>
}

/** What a handler is handling, for what it does to its own consumer. */
export interface Handling {
  readonly topic: string
  readonly consumer: string
  /** Whether it has put the consumer elsewhere, or deleted it, in the transaction in which it handles. */
  placed: boolean
}

export const Handling = Context.Reference<Handling | undefined>("@coppice/pubsub/DurableTopic/Handling", {
  defaultValue: () => undefined
})

/** Why a round was not done. */
class Failed<E> extends Data.TaggedError("Failed")<{ readonly cause: Cause.Cause<E> }> {}

/** Why a consumer fails. */
type Failure<E> = E | EventsPruned | UndecodableEvent | SqlError

export const run = <Event, E, R>(reading: Reading, plan: Plan<Event, E, R>): Effect.Effect<never, Failure<E>, R> =>
  Effect.acquireUseRelease(
    Scope.make(),
    (scope) =>
      Effect.flatMap(Scope.provide(reading.wakeUps.listen(plan.topic.id), scope), (listener) =>
        loop(reading, plan, listener)
      ),
    Scope.close
  )

const loop = <Event, E, R>(
  { pollMillis, store }: Reading,
  plan: Plan<Event, E, R>,
  listener: Listener
): Effect.Effect<never, Failure<E>, R> =>
  Effect.gen(function* () {
    const { batchSize, consumer, topic } = plan
    const labels = { topic: topic.id.split(":", 1)[0] ?? topic.id, consumer }
    let lookMillis = firstLookMillis
    /** How many events the next batch has: none after the one that failed. */
    let size = batchSize
    /** What is being handled: its place in the batch, of so many, and in the order. */
    let index = 0
    let total = 0
    let at: Position = zero

    const register = Effect.gen(function* () {
      const position = plan.from === "beginning" ? zero : plan.from === "now" ? yield* store.horizon : plan.from
      yield* store.register(topic.id, consumer, position, plan.from === "beginning")
    })

    const handle = Effect.fnUntraced(function* (page: ConsumerPage) {
      let { told } = page
      if (isMissed(page.pruned, page.position, told)) {
        yield* plan.onPruned(new EventsPruned({ topic: topic.id, after: page.position, until: page.pruned }))
        told = page.pruned
      }
      for (const row of page.rows) {
        at = row.position
        yield* handleRow(plan, row)
        index++
      }
      return told
    })

    const batch = Effect.gen(function* () {
      index = total = 0
      if (!(yield* store.lock(topic.id, consumer, plan.leaseMillis))) return "busy" as const
      // Not in the statement before: that one began before it had the lock.
      const page = yield* store.consumerPage(topic.id, consumer, size)
      if (page === undefined) return "done" as const
      total = page.rows.length
      at = page.position
      const handling: Handling = { topic: topic.id, consumer, placed: false }
      const told = yield* Effect.provideService(handle(page), Handling, handling)
      const last = page.rows.at(-1)?.position ?? page.position
      if (last === page.position && told === page.told) return "done" as const
      const moved = yield* store.advance(topic.id, consumer, page.position, last, told)
      // Somebody else has put the consumer elsewhere meanwhile: what was handled is undone.
      if (!moved && !handling.placed) return yield* new Moved()
      return "done" as const
    }).pipe(alive(store, plan.leaseMillis), store.sql.withTransaction)

    /** One look, and one batch if there is something to do. */
    const round = Effect.gen(function* () {
      yield* listener.reset
      const next = yield* store.consumerPage(topic.id, consumer, 1)
      if (next === undefined) return yield* register
      if (next.rows.length === 0 && !isMissed(next.pruned, next.position, next.told)) {
        const millis = next.held ? Math.min(lookMillis, pollMillis) : pollMillis
        lookMillis = next.held ? lookMillis * 2 : firstLookMillis
        return yield* listener.wait(millis)
      }
      lookMillis = firstLookMillis
      const outcome = yield* batch
      if (total > 0 && outcome === "done") yield* Metric.update(Metric.withAttributes(handled, labels), total)
      // What cannot be committed is found in a few tries, wherever it is.
      size = Math.min(batchSize, size * 2)
      // Whoever is at it goes on with it; here it is of interest only whether it still is.
      if (outcome === "busy") yield* Effect.sleep(pollMillis)
    })

    const isolating = Effect.fnUntraced(function* (cause: Cause.Cause<Failure<E> | Moved>) {
      // Not a failure: the next look finds where it is now. That may be again and again.
      if (cause.reasons.every((reason) => Cause.isFailReason(reason) && reason.error instanceof Moved)) {
        return yield* Effect.sleep(firstLookMillis)
      }
      yield* Metric.update(Metric.withAttributes(failures, labels), 1)
      // What is before the one that failed is done first, and is not undone by it the next time.
      const isolate = index > 0 && index < total
      size = isolate ? index : 1
      const next = isolate ? "after those before it" : "later"
      yield* Effect.logWarning(`Consumer ${consumer} of ${topic.id} failed at ${at}, and tries again ${next}`, cause)
      // Moved is gone.
      if (!isolate) return yield* new Failed({ cause: cause as Cause.Cause<Failure<E>> })
    })

    return yield* Effect.forever(Effect.retry(Effect.catchCause(round, isolating), plan.retry))
  }).pipe(Effect.catch(({ cause }) => Effect.failCause(cause)))

/** The consumer is not where it was when the batch began. */
class Moved extends Data.TaggedError("Moved") {}

const handleRow = <Event, E, R>(
  { handler, onUndecodable, topic }: Plan<Event, E, R>,
  row: Row
): Effect.Effect<void, E | UndecodableEvent, R> => {
  const event = decode(topic, row)
  return Result.isSuccess(event)
    ? handler({ position: row.position, insertedAt: row.insertedAt, event: event.success })
    : onUndecodable(event.failure)
}

/** Says something on the transaction's connection as long as the work lasts, and ends the work when that has gone. */
const alive =
  (store: Store, leaseMillis: number) =>
  <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> => {
    // On virtual time a lease would pass while nothing does.
    if (store.time === "clock") return work
    const beat = Effect.catchIf(store.sql`select 1`, isAborted, () => Effect.void)
    return Effect.raceFirst(work, Effect.forever(Effect.andThen(Effect.sleep(leaseMillis / 3), beat)))
  }

/** A statement of the handler has failed, and it may still go back to a savepoint. */
const isAborted = (error: SqlError): boolean => {
  const { cause } = error.reason
  return typeof cause === "object" && cause !== null && "code" in cause && cause.code === "25P02"
}

const handled = Metric.counter("coppice_pubsub_durable_handled_total", {
  description: "Events of durable topics that consumers have handled, by topic name and consumer",
  incremental: true
})
const failures = Metric.counter("coppice_pubsub_durable_failures_total", {
  description: "Times that a consumer of a durable topic has failed, by topic name and consumer",
  incremental: true
})
