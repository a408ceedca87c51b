import { PubSub, Topic } from "@coppice/pubsub"
import type { GapReason, Status } from "@coppice/pubsub/Adapter"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Logger, Metric, References, Schema, Scope, Stream } from "effect"
import { Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { start } from "../src/internal/redis/adapter.ts"

/** A Redis without a network, which does what a test wants. */
interface Broker {
  readonly redis: Redis.Redis["Service"]
  readonly published: Array<string>
  subscriptions: number
  /** Those that publish. */
  connections: number
  /** What a PUBLISH waits for before it arrives. */
  publishing: Effect.Effect<void, Redis.RedisError>
  subscribing: Effect.Effect<void, Redis.RedisError>
  /** Nothing that is published arrives. */
  deaf: boolean
  readonly arrive: (message: string) => void
  readonly endSubscriptions: Effect.Effect<void>
}

const makeBroker = Effect.gen(function* () {
  const listeners = new Set<{ readonly hear: (message: string) => void; readonly end: Effect.Effect<unknown> }>()
  const redis = yield* Redis.make({
    send: () => Effect.die("not used"),
    connect: Effect.sync(() => {
      broker.connections++
      return {
        send: <A>(command: string, ...args: ReadonlyArray<string>) => {
          assert.strictEqual(command, "PUBLISH")
          const message = args[1] ?? ""
          broker.published.push(message)
          // How many have heard it, which nobody here reads.
          return Effect.map(broker.publishing, () => broker.arrive(message) as A)
        },
        close: Effect.sync(() => {
          broker.connections--
        })
      }
    }),
    subscribe: Effect.fnUntraced(function* (channel, onMessage) {
      broker.subscriptions++
      yield* broker.subscribing
      const ended = yield* Deferred.make<void, Redis.RedisError>()
      const listener = {
        hear: (message: string) => onMessage({ channel, message }),
        end: Deferred.fail(ended, problem)
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => listeners.add(listener)),
        () => Effect.sync(() => listeners.delete(listener))
      )
      return Deferred.await(ended)
    })
  })
  const broker: Broker = {
    redis,
    published: [],
    subscriptions: 0,
    connections: 0,
    publishing: Effect.void,
    subscribing: Effect.void,
    deaf: false,
    arrive: (message) => {
      if (!broker.deaf) for (const { hear } of listeners) hear(message)
    },
    endSubscriptions: Effect.suspend(() => Effect.forEach(listeners, ({ end }) => end, { discard: true }))
  }
  return broker
})

const problem = new Redis.RedisError({ cause: new Error("socket closed") })

const startNode = Effect.fnUntraced(function* (broker: Broker, node: string) {
  const told: Array<unknown> = []
  const statuses: Array<Status> = []
  const adapter = yield* start({
    channel: "test",
    heartbeatMillis: 10_000,
    node,
    receiver: {
      deliver: ({ event }) => told.push(event),
      gap: (reason: GapReason) => told.push(reason),
      status: (status) => statuses.push(status)
    }
  }).pipe(Effect.provideService(Redis.Redis, broker.redis))
  return { ...adapter, told, statuses, event: (event: unknown) => adapter.send({ topic: "t", event }) }
})

const startTwo = Effect.gen(function* () {
  const broker = yield* makeBroker
  const [a, b] = [yield* startNode(broker, "a"), yield* startNode(broker, "b")]
  yield* TestClock.adjust("1 minute")
  broker.published.length = 0
  return { broker, a, b }
})

/** What has arrived has been taken. */
const heard = Effect.repeat(TestClock.adjust(0), { times: 20 })

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

describe("RedisAdapter", () => {
  it.effect("tries a PUBLISH that failed again as it was, so that nobody hears it twice", () =>
    Effect.gen(function* () {
      const { a, b, broker } = yield* startTwo
      // It arrives, but not its answer.
      broker.publishing = Effect.suspend(() => {
        broker.publishing = Effect.void
        broker.arrive(broker.published.at(-1) ?? "")
        return Effect.fail(problem)
      })
      a.event(1)
      a.event(2)
      yield* TestClock.adjust("1 second")
      const [first, second] = broker.published
      assert.strictEqual(first, second)
      assert.deepStrictEqual(b.told, [1, 2])
    })
  )

  it.effect("gives a packet up that fails for 10 seconds, and the others are told a gap", () =>
    Effect.gen(function* () {
      const { a, b, broker } = yield* startTwo
      a.event(1)
      yield* a.flush
      broker.publishing = Effect.fail(problem)
      a.event(2)
      yield* TestClock.adjust("11 seconds")
      broker.publishing = Effect.void
      yield* TestClock.adjust("10 seconds")
      a.event(3)
      yield* a.flush
      yield* heard
      assert.deepStrictEqual(
        b.told.filter((what) => what !== "disconnected"),
        [1, "missed", 3]
      )
    }).pipe(quiet)
  )

  it.effect(
    "what Redis has not taken for 10 seconds is given up with all that waits behind it: flush ends, and the others are told a gap",
    () =>
      Effect.gen(function* () {
        const { a, b, broker } = yield* startTwo
        const answer = yield* Deferred.make<void>()
        broker.publishing = Deferred.await(answer)
        a.event(1)
        yield* TestClock.adjust(0)
        a.event(2)
        const flushed = yield* Effect.forkChild(a.flush)
        yield* TestClock.adjust("9 seconds")
        assert.isUndefined(flushed.pollUnsafe())
        yield* TestClock.adjust("1 second")
        assert.isDefined(flushed.pollUnsafe())
        broker.publishing = Effect.void
        yield* Deferred.succeed(answer, undefined)
        yield* TestClock.adjust("20 seconds")
        a.event(4)
        yield* a.flush
        yield* heard
        assert.deepStrictEqual(
          b.told.filter((what) => what !== "disconnected"),
          ["missed", 4]
        )
      }).pipe(quiet)
  )

  it.effect("keeps at most 16 MB, the newest, and an event has at most 8 MB", () =>
    Effect.gen(function* () {
      const { a, b, broker } = yield* startTwo
      const answer = yield* Deferred.make<void>()
      broker.publishing = Deferred.await(answer)
      a.event("on its way")
      yield* TestClock.adjust(0)
      const megabyte = "x".repeat(1_000_000)
      for (let number = 1; number <= 20; number++) a.event(`${number}${megabyte}`)
      broker.publishing = Effect.void
      yield* Deferred.succeed(answer, undefined)
      yield* a.flush
      a.event("é".repeat(4 * 1_024 * 1_024))
      a.event("after")
      yield* a.flush
      yield* heard
      const told = b.told.map((what) => String(what).split("x", 1)[0])
      const kept = Array.from({ length: 16 }, (_, index) => String(index + 5))
      assert.deepStrictEqual(told, ["on its way", "missed", ...kept, "missed", "after"])
    }).pipe(quiet)
  )

  it.effect("warns of what is given up with its own reason, not with a failure that has passed", () => {
    const warnings: Array<unknown> = []
    const logger = Logger.make(({ message }) => void warnings.push(message))
    return Effect.gen(function* () {
      const { a, broker } = yield* startTwo
      broker.publishing = Effect.suspend(() => {
        broker.publishing = Effect.void
        return Effect.fail(problem)
      })
      a.event(1)
      yield* TestClock.adjust("1 second")
      a.event(1n)
      yield* heard
      assert.lengthOf(warnings, 1)
      assert.match(String(warnings), /^1 events were not sent .* or not JSON$/)
    }).pipe(Effect.provide(Logger.layer([logger])))
  })

  it.effect("an event that is not JSON harms nobody, and is a gap for the others", () =>
    Effect.gen(function* () {
      const { a, b } = yield* startTwo
      const circular: Array<unknown> = []
      circular.push(circular)
      a.event(circular)
      a.event(1n)
      a.event(1)
      yield* a.flush
      yield* heard
      assert.deepStrictEqual(b.told, ["missed", 1])
    }).pipe(quiet)
  )

  it.effect("much that arrives at once robs nobody who waits for it", () =>
    Effect.gen(function* () {
      const { a, broker } = yield* startTwo
      const Numbers = Topic.make("t", { event: Schema.Int })
      const pubsub = PubSub.layerAdapter((node, receiver) =>
        Effect.provideService(
          start({ channel: "test", heartbeatMillis: 10_000, node, receiver }),
          Redis.Redis,
          broker.redis
        )
      )
      const { messages } = yield* Effect.provideContext(PubSub.subscribe(Numbers), yield* Layer.build(pubsub))
      const count = 20_000
      let events = 0
      let missed = 0
      const handled = yield* Effect.forkChild(
        Stream.runForEachWhile(
          messages,
          Effect.fnUntraced(function* (message) {
            yield* Effect.void
            if (message._tag === "Event") events++
            else if (message._tag === "Lagged") missed += message.missed
            return events + missed < count
          })
        ),
        { startImmediately: true }
      )
      broker.published.length = 0
      broker.deaf = true
      for (let number = 0; number < count; number++) a.event(number)
      yield* a.flush
      broker.deaf = false
      // As when a process was busy with something else meanwhile.
      broker.published.forEach(broker.arrive)
      yield* Fiber.join(handled)
      assert.strictEqual(missed, 0)
    })
  )

  it.effect("counts what it sends, receives and gives up, gaps, connections, and what is no packet", () =>
    Effect.gen(function* () {
      const { a, b, broker } = yield* startTwo
      a.event(1)
      a.event(2)
      a.event(1n)
      yield* a.flush
      broker.arrive("hello")
      broker.publishing = Effect.suspend(() => {
        broker.publishing = Effect.void
        return Effect.fail(problem)
      })
      b.event(3)
      yield* TestClock.adjust("1 second")
      yield* broker.endSubscriptions
      yield* TestClock.adjust("10 seconds")
      const counted: Record<string, unknown> = {}
      for (const { attributes, id, state } of yield* Metric.snapshot) {
        const { connection = "", reason = "" } = attributes ?? {}
        counted[`${id.slice("coppice_pubsub_".length)} ${connection}${reason}`.trim()] = "count" in state && state.count
      }
      assert.deepStrictEqual(counted, {
        sent_total: 3,
        batches_total: 2,
        received_total: 3,
        unsent_total: 1,
        malformed_total: 2,
        "gaps_total missed": 1,
        "gaps_total disconnected": 2,
        "reconnects_total sender": 1,
        "reconnects_total listener": 2
      })
    }).pipe(quiet, Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("a loss at the end is told within two seconds after the broadcast", () =>
    Effect.gen(function* () {
      const { a, b, broker } = yield* startTwo
      broker.deaf = true
      a.event(1)
      yield* a.flush
      broker.deaf = false
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(b.told, ["missed"])
      assert.deepStrictEqual(b.statuses, ["solitary", "clustered"])
    })
  )

  it.effect(
    "a node that does not hear itself is disconnected, subscribes anew, and tells a gap when it hears again",
    () =>
      Effect.gen(function* () {
        const { a, b, broker } = yield* startTwo
        const before = broker.subscriptions
        broker.deaf = true
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual([a.statuses.at(-1), b.statuses.at(-1)], ["disconnected", "disconnected"])
        assert.isAbove(broker.subscriptions, before + 2)
        broker.deaf = false
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual([a.statuses.at(-1), b.statuses.at(-1)], ["clustered", "clustered"])
        assert.deepStrictEqual(b.told, ["disconnected"])
      }).pipe(quiet)
  )

  it.effect("a subscription that ends is made anew, also when that takes several tries", () =>
    Effect.gen(function* () {
      const { a, b, broker } = yield* startTwo
      broker.subscribing = Effect.fail(problem)
      yield* broker.endSubscriptions
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(b.statuses.at(-1), "disconnected")
      broker.subscribing = Effect.void
      yield* TestClock.adjust("10 seconds")
      a.event(1)
      yield* a.flush
      yield* heard
      assert.strictEqual(b.statuses.at(-1), "clustered")
      assert.deepStrictEqual(b.told, ["disconnected", 1])
    }).pipe(quiet)
  )

  it.effect("a node that is silent is gone after three heartbeats, one that says goodbye at once", () =>
    Effect.gen(function* () {
      const broker = yield* makeBroker
      const a = yield* startNode(broker, "a")
      const scope = yield* Scope.make()
      const b = yield* Scope.provide(startNode(broker, "b"), scope)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(a.statuses, ["solitary", "clustered"])
      b.event(1)
      yield* Scope.close(scope, Exit.void)
      yield* heard
      assert.deepStrictEqual(a.told, [1])
      assert.deepStrictEqual(a.statuses, ["solitary", "clustered", "solitary"])
      broker.arrive('{"kind":"alive","from":"c","seq":0}')
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(a.statuses.at(-1), "clustered")
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(a.statuses.at(-1), "solitary")
    })
  )

  it.effect("does not start where it cannot publish, cannot subscribe, or does not hear itself in 15 seconds", () =>
    Effect.gen(function* () {
      const startWith = Effect.fnUntraced(function* (change: (broker: Broker) => void) {
        const broker = yield* makeBroker
        change(broker)
        const starting = yield* startNode(broker, "a").pipe(Effect.scoped, Effect.flip, Effect.forkChild)
        // In steps, so that what takes a turn takes no time.
        yield* Effect.repeat(TestClock.adjust("1 second"), { times: 14 })
        return yield* Fiber.await(starting)
      })
      const failures = [
        yield* startWith((broker) => (broker.publishing = Effect.fail(problem))),
        yield* startWith((broker) => (broker.subscribing = Effect.fail(problem))),
        yield* startWith((broker) => (broker.deaf = true)),
        yield* startWith((broker) => (broker.subscribing = Effect.uninterruptible(Effect.never)))
      ]
      assert.deepStrictEqual(
        failures.map((exit) => Exit.isSuccess(exit) && exit.value._tag),
        ["Deaf", "RedisError", "Deaf", "Deaf"]
      )
      assert.deepStrictEqual(
        failures.map((exit) => Exit.isSuccess(exit) && exit.value.cause),
        [problem, problem.cause, undefined, undefined]
      )
    }).pipe(quiet)
  )

  it.effect("closes within two seconds although Redis answers nothing, and warns of what it gives up", () => {
    const warnings: Array<unknown> = []
    const logger = Logger.make(({ logLevel, message }) => {
      if (logLevel === "Warn") warnings.push(message)
    })
    return Effect.gen(function* () {
      const broker = yield* makeBroker
      const scope = yield* Scope.make()
      const a = yield* Scope.provide(startNode(broker, "a"), scope)
      broker.publishing = Effect.never
      broker.subscribing = Effect.uninterruptible(Effect.never)
      yield* broker.endSubscriptions
      a.event(1)
      yield* TestClock.adjust("1 second")
      const began = performance.now()
      yield* Scope.close(scope, Exit.void)
      // By the live clock: nobody moves a test clock while a scope closes.
      assert.isBelow(performance.now() - began, 2_500)
      // What did not leave was given up.
      yield* a.flush
      assert.lengthOf(warnings, 1)
      assert.match(String(warnings), /^1 events were not sent/)
    }).pipe(Effect.provide(Logger.layer([logger])))
  })
})
