/**
 * Putting the service together.
 */
import { Context, Duration, Effect, Option, Result, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import type { SqlError } from "effect/sql/SqlError"
import type { ConsumeOptions, ConsumerState, DurableTopic, LayerOptions, Shape, Stored } from "../../DurableTopic.ts"
import * as Migrations from "../../Migrations.ts"
import { PubSub } from "../../PubSub.ts"
import * as Consumer from "./consumer.ts"
import { InvalidOption } from "./errors.ts"
import { encode } from "./events.ts"
import * as Maintenance from "./maintenance.ts"
import { zero } from "./position.ts"
import * as Reader from "./reader.ts"
import * as Store from "./store.ts"
import { TimeSource } from "./time.ts"
import * as WakeUps from "./wakeUps.ts"

export const make = Effect.fnUntraced(function* (options: LayerOptions) {
  const sql = yield* SqlClient.SqlClient
  const time = yield* TimeSource
  const pollMillis = yield* millisFrom("pollInterval", options.pollInterval ?? defaults[time].pollInterval, 10)
  const pruneMillis = yield* millisFrom("pruneInterval", options.pruneInterval ?? defaults[time].pruneInterval, 10)
  if (options.migrate ?? true) yield* Migrations.run
  const schema = yield* Migrations.quotedSchema
  const store = Store.make({ schema, sql, time })
  yield* store.recognize
  const wakeUps = yield* WakeUps.make(yield* PubSub)
  yield* Effect.forkScoped(Maintenance.run(store, pruneMillis))
  return service({ store, wakeUps, pollMillis })
})

/** On virtual time nobody is lost who was woken, and a week should pass in a few steps. */
const defaults = {
  database: { pollInterval: "1 second", pruneInterval: "1 minute" },
  clock: { pollInterval: "1 hour", pruneInterval: "1 hour" }
} as const

const service = (reading: Reader.Reading): Shape => {
  const { store, wakeUps } = reading
  const publishMany: Shape["publishMany"] = ({ retention, topic }, events) =>
    Effect.gen(function* () {
      const texts: Array<string> = []
      for (const event of events) {
        const text = encode(topic, event)
        if (Result.isFailure(text)) return yield* Effect.fail(text.failure)
        texts.push(text.success)
      }
      if (texts.length === 0) return []
      const positions = yield* store.insert(topic.id, texts, Duration.toMillis(retention))
      yield* store.sql.afterCommit(Effect.sync(() => wakeUps.wake(topic.id)))
      return positions
    })
  /** Where a handler does this to its own consumer, it is no reason to undo what it handles. */
  const placing = <A>(topic: string, consumer: string, effect: Effect.Effect<A, SqlError>) =>
    Effect.flatMap(Effect.context<never>(), (context) => {
      const handling = Context.get(context, Consumer.Handling)
      const inside = Context.getOrUndefined(context, store.sql.transactionService) !== undefined
      if (inside && handling?.topic === topic && handling.consumer === consumer) handling.placed = true
      return effect
    })
  return {
    publishMany,
    publish: (topic, event) =>
      // One event has one position.
      Effect.map(publishMany(topic, [event]), ([position]) => position ?? zero),
    stream: ({ topic }, { from }) => Reader.stream(reading, topic, from),
    consume: <Event, E, R, E2, R2>(
      { topic }: DurableTopic<Event>,
      consumer: string,
      handler: (event: Stored<Event>) => Effect.Effect<void, E, R>,
      options: ConsumeOptions<E2, R2> = {}
    ) =>
      Effect.flatMap(checked(options), (plan) =>
        Reader.outside(store, Consumer.run<Event, E | E2, R | R2>(reading, { topic, consumer, handler, ...plan }))
      ),
    now: store.horizon,
    consumers: ({ topic }) => Effect.map(store.consumers(topic.id, null), (rows) => rows.map(stateOf)),
    consumer: ({ topic }, consumer) =>
      Effect.map(store.consumers(topic.id, consumer), ([row]) =>
        row === undefined ? Option.none() : Option.some(stateOf(row))
      ),
    setPosition: ({ topic }, consumer, to) =>
      Effect.flatMap(to === "now" ? store.horizon : Effect.succeed(to === "beginning" ? zero : to), (position) =>
        Effect.andThen(
          placing(topic.id, consumer, store.set(topic.id, consumer, position, to === "beginning")),
          store.sql.afterCommit(Effect.sync(() => wakeUps.wake(topic.id)))
        )
      ),
    deleteConsumer: ({ topic }, consumer) => placing(topic.id, consumer, store.delete(topic.id, consumer))
  }
}

const stateOf = ({ consumer, held, oldest, position, unread, updatedAt }: Store.ConsumerRow): ConsumerState => ({
  consumer,
  position,
  updatedAt,
  lag: { unread, held, oldest: Option.fromNullishOr(oldest) }
})

const defaultRetry = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("1 minute")])

const checked = Effect.fnUntraced(function* <E, R>(options: ConsumeOptions<E, R>) {
  const { batchSize = 100, from = "beginning", lease = "30 seconds", retry = defaultRetry } = options
  if (!Number.isSafeInteger(batchSize) || batchSize < 1 || batchSize > largestBatch) {
    const problem = `is ${batchSize}, and must be a whole number from 1 to ${largestBatch}`
    return yield* new InvalidOption({ option: "batchSize", problem })
  }
  const leaseMillis = yield* millisFrom("lease", lease, 100)
  return {
    batchSize,
    from,
    leaseMillis,
    retry,
    onUndecodable: options.onUndecodable ?? Effect.fail,
    onPruned: options.onPruned ?? Effect.fail
  }
})

const largestBatch = 10_000

const millisFrom = (option: string, input: Duration.Input, least: number): Effect.Effect<number, InvalidOption> => {
  const millis = Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  return millis >= least && millis < 2 ** 31
    ? Effect.succeed(Math.round(millis))
    : Effect.fail(
        new InvalidOption({ option, problem: `is ${String(input)}, and must be a duration of ${least} ms or more` })
      )
}
