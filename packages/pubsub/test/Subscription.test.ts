import { PubSub, type Subscription, Topic } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Metric, References, Schema, Scope, Stream } from "effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

const Numbers = Topic.make("numbers", { key: Schema.Int, event: Schema.Int })
const numbers = Numbers(1)

const local = Effect.provide(PubSub.layerLocal)

type Numbered = Subscription.Subscription<number>

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index)

const broadcast = (events: Iterable<number>) =>
  Effect.forEach(events, (event) => PubSub.broadcast(numbers, event), { discard: true })

/** Takes what comes until the subscription ends; it waits for the first when this effect has ended. */
const taking = (subscription: Numbered) =>
  Effect.gen(function* () {
    const taken: Array<number> = []
    const fiber = yield* Effect.forkChild(
      Stream.runForEachArray(subscription.events, (events) => Effect.sync(() => taken.push(...events))),
      { startImmediately: true }
    )
    return { taken, fiber }
  })

/** What waits in a subscription, losses as negative numbers. */
const waiting = (subscription: Numbered) =>
  Effect.map(Stream.runHead(Stream.chunks(subscription.messages)), (chunk) =>
    chunk._tag === "None"
      ? []
      : chunk.value.map((message) =>
          message._tag === "Event" ? message.event : message._tag === "Lagged" ? -message.missed : Number.NaN
        )
  )

const until = (condition: () => boolean) =>
  Effect.whileLoop({ while: () => !condition(), body: () => Effect.yieldNow, step: () => {} })

describe("a subscription that takes what comes", () => {
  it.effect("loses nothing to broadcasters that never pause, however many they are and however small it is", () =>
    Effect.gen(function* () {
      for (const policy of ["sliding", "dropping", "fail"] as const) {
        const scope = yield* Scope.make()
        const { fiber, taken } = yield* taking(
          yield* Scope.provide(PubSub.subscribe(numbers, { capacity: 64, policy }), scope)
        )
        const broadcasters = 20
        yield* Effect.forEach(upTo(broadcasters), () => broadcast(upTo(500)), { concurrency: "unbounded" })
        yield* Effect.yieldNow
        yield* Scope.close(scope, Exit.void)
        yield* Fiber.join(fiber)
        assert.lengthOf(taken, broadcasters * 500)
      }
    }).pipe(local)
  )

  it.effect("loses nothing to one that broadcasts in a single effect, beside one that takes nothing", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      for (const policy of ["sliding", "dropping", "fail"] as const) {
        yield* Scope.provide(PubSub.subscribe(numbers, { capacity: 3, policy }), scope)
      }
      const { fiber, taken } = yield* taking(yield* Scope.provide(PubSub.subscribe(numbers), scope))
      yield* broadcast(upTo(10_000))
      yield* Effect.yieldNow
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(taken, upTo(10_000))
    }).pipe(local)
  )

  it.effect("loses nothing and ends in time, wherever the runtime has others run", () =>
    Effect.gen(function* () {
      for (const operations of upTo(60).slice(3)) {
        for (const turns of upTo(3)) {
          const scope = yield* Scope.make()
          const { fiber, taken } = yield* taking(yield* Scope.provide(PubSub.subscribe(numbers), scope)).pipe(
            Effect.provideService(References.MaxOpsBeforeYield, operations)
          )
          for (const event of upTo(5)) {
            yield* broadcast([event])
            for (const _ of upTo(turns)) yield* Effect.yieldNow
          }
          let left = 100
          yield* until(() => taken.length === 5 || --left === 0)
          assert.deepStrictEqual(taken, upTo(5), `every ${operations} operations`)
          yield* Scope.close(scope, Exit.void)
          yield* until(() => fiber.pollUnsafe() !== undefined || --left <= -100)
          assert.isDefined(fiber.pollUnsafe(), `every ${operations} operations`)
        }
      }
    }).pipe(local)
  )

  it.effect("ends while it waits, when its scope closes", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { fiber, taken } = yield* taking(yield* Scope.provide(PubSub.subscribe(numbers), scope))
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(taken, [])
    }).pipe(local)
  )

  it.effect("by two consumers gives each event to one of them, and ends both", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const subscription = yield* Scope.provide(PubSub.subscribe(numbers), scope)
      const one = yield* taking(subscription)
      const two = yield* taking(subscription)
      for (const event of upTo(10)) {
        yield* broadcast([event])
        yield* Effect.yieldNow
      }
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.joinAll([one.fiber, two.fiber])
      assert.deepStrictEqual(
        [...one.taken, ...two.taken].toSorted((a, b) => a - b),
        upTo(10)
      )
    }).pipe(local)
  )

  it.effect("loses nothing to a consumer that is interrupted, before it was told of an event or after", () =>
    Effect.gen(function* () {
      const subscription = yield* PubSub.subscribe(numbers)
      const first = yield* taking(subscription)
      yield* Fiber.interrupt(first.fiber)
      const second = yield* taking(subscription)
      yield* broadcast([1, 2])
      yield* Fiber.interrupt(second.fiber)
      assert.deepStrictEqual([...first.taken, ...second.taken], [])
      yield* broadcast([3])
      assert.deepStrictEqual(yield* waiting(subscription), [1, 2, 3])
    }).pipe(Effect.scoped, local)
  )

  it.effect("does not delay broadcasters when it was interrupted before its turn", () =>
    Effect.gen(function* () {
      const subscription = yield* PubSub.subscribe(numbers, { capacity: 2 })
      const { fiber } = yield* taking(subscription)
      yield* broadcast([1])
      yield* Fiber.interrupt(fiber)
      let turns = 0
      const counting = yield* Effect.forkChild(Effect.forever(Effect.sync(() => turns++)), { startImmediately: true })
      const before = turns
      yield* broadcast(upTo(100))
      assert.strictEqual(turns, before)
      yield* Fiber.interrupt(counting)
    }).pipe(Effect.scoped, local)
  )

  it.effect("keeps what came before it was interrupted, and then no more than that", () =>
    Effect.gen(function* () {
      const subscription = yield* PubSub.subscribe(numbers, { capacity: 10 })
      const { fiber } = yield* taking(subscription)
      yield* broadcast(upTo(50))
      yield* Fiber.interrupt(fiber)
      yield* Effect.yieldNow
      yield* broadcast(upTo(45))
      assert.deepStrictEqual(yield* waiting(subscription), [-45, 45, 46, 47, 48, 49, ...upTo(45)])
      yield* broadcast(upTo(45))
      assert.deepStrictEqual(yield* waiting(subscription), [-35, ...upTo(45).slice(-10)])
    }).pipe(Effect.scoped, local)
  )

  it.effect("gets an event whole or not at all from a broadcaster that is interrupted", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const takers = yield* Effect.forEach(upTo(3), () =>
        Effect.flatMap(Scope.provide(PubSub.subscribe(numbers, { capacity: 8 }), scope), taking)
      )
      const broadcaster = yield* Effect.forkChild(broadcast(upTo(1_000_000)))
      yield* until(() => takers.every(({ taken }) => taken.length > 0))
      yield* Fiber.interrupt(broadcaster)
      yield* Effect.yieldNow
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.joinAll(takers.map(({ fiber }) => fiber))
      const [one, ...others] = takers.map(({ taken }) => taken)
      assert.isBelow(one?.length ?? 0, 1_000_000)
      for (const other of others) assert.deepStrictEqual(other, one)
    }).pipe(local)
  )
})

describe("a subscription that is slow", () => {
  it.effect("learns exactly how much it has lost, and where", () =>
    Effect.gen(function* () {
      const sliding = yield* PubSub.subscribe(numbers, { capacity: 10 })
      const dropping = yield* PubSub.subscribe(numbers, { capacity: 10, policy: "dropping" })
      for (const count of [9, 10, 11, 20, 35, 10, 1_000]) {
        const events = upTo(count)
        yield* broadcast(events)
        const missed = count > 10 ? [10 - count] : []
        assert.deepStrictEqual(yield* waiting(sliding), [...missed, ...events.slice(-10)])
        assert.deepStrictEqual(yield* waiting(dropping), [...events.slice(0, 10), ...missed])
      }
    }).pipe(Effect.scoped, local)
  )

  it.effect("is counted by the name of its topic", () =>
    Effect.gen(function* () {
      const Lost = Topic.make("lost", { key: Schema.Int, event: Schema.Int })
      for (const key of [1, 2]) {
        yield* PubSub.subscribe(Lost(key), { capacity: 1 })
        for (const event of upTo(5)) yield* PubSub.broadcast(Lost(key), event)
      }
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      const counted = (yield* Metric.snapshot).filter(({ id }) => id === "coppice_pubsub_dropped_total")
      assert.deepStrictEqual(
        counted.map(({ attributes, state }) => [attributes, state]),
        [[{ topic: "lost" }, { count: 8, incremental: true }]]
      )
    }).pipe(Effect.scoped, local, Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("keeps no more than its capacity of a million events", () =>
    Effect.gen(function* () {
      const Large = Topic.make("large", { event: Schema.Array(Schema.Int) })
      setFlagsFromString("--expose-gc")
      const collect: () => void = runInNewContext("gc")
      const held = () => {
        collect()
        return process.memoryUsage().heapUsed
      }
      const subscription = yield* PubSub.subscribe(Large)
      const before = held()
      for (let event = 0; event < 1_000_000; event++) yield* PubSub.broadcast(Large, [event, 0, 0, 0, 0, 0, 0, 0, 0, 0])
      // All of them would be more than 150 MB.
      assert.isBelow((held() - before) / 1e6, 10)
      const [lagged, oldest] = yield* Stream.runCollect(Stream.take(subscription.messages, 2))
      assert.deepStrictEqual(lagged, { _tag: "Lagged", missed: 1_000_000 - 1_024 })
      assert.deepInclude(oldest, { _tag: "Event", event: [1_000_000 - 1_024, 0, 0, 0, 0, 0, 0, 0, 0, 0] })
    }).pipe(Effect.scoped, local)
  )

  it.effect("and fails, fails each consumer, and hears nothing any more", () =>
    Effect.gen(function* () {
      const strict = yield* PubSub.subscribe(numbers, { capacity: 1, policy: "fail" })
      const { fiber } = yield* taking(strict)
      yield* Fiber.interrupt(fiber)
      yield* broadcast([1, 2])
      assert.deepStrictEqual(yield* waiting(strict), [1])
      yield* broadcast([3])
      for (const _ of upTo(2)) {
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(strict.events)))._tag, "SubscriberTooSlow")
      }
    }).pipe(Effect.scoped, local)
  )

  it.effect("has room for one message, whatever capacity it asks for", () =>
    Effect.gen(function* () {
      for (const capacity of [0, -1, 0.5, Number.NaN]) {
        const subscription = yield* PubSub.subscribe(numbers, { capacity })
        yield* broadcast([1, 2, 3])
        assert.deepStrictEqual(yield* waiting(subscription), [-2, 3])
      }
    }).pipe(Effect.scoped, local)
  )
})

describe("a subscription in a scope that is closed", () => {
  it.effect("has ended", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const subscription = yield* Scope.provide(PubSub.subscribe(numbers), scope)
      assert.strictEqual(yield* PubSub.subscriberCount(numbers), 0)
      yield* broadcast([1])
      assert.deepStrictEqual(yield* waiting(subscription), [])
    }).pipe(local)
  )
})
