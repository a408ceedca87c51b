import { type Adapter, PubSub, type Subscription, Topic } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger, Metric, Option, Result, Schema, Stream } from "effect"

const Numbers = Topic.make("numbers", { key: Schema.Int, event: Schema.DateFromString })
const dates = Numbers(1)
const first = new Date("2026-01-01T00:00:00.000Z")
const second = new Date("2026-01-02T00:00:00.000Z")

/** A PubSub, what it has sent, and the receiver of what others send. */
const connected = Effect.gen(function* () {
  const sent: Array<readonly [message: Adapter.Message, to: string | undefined]> = []
  let receiver: Adapter.Receiver | undefined
  const services = yield* Layer.build(
    PubSub.layerAdapter((_node, delivery) =>
      Effect.sync(() => {
        receiver = delivery
        return {
          send: (message: Adapter.Message, to?: string) => void sent.push([message, to]),
          flush: Effect.void
        }
      })
    )
  )
  if (receiver === undefined) return yield* Effect.die(new Error("the adapter was not started"))
  return { services, sent, receiver }
})

const said = (event: Date, node: string) => ({ _tag: "Event", event, node }) as const

const next = <Event>(subscription: Subscription.Subscription<Event>, n: number) =>
  Stream.runCollect(Stream.take(subscription.messages, n))

describe("an adapter", () => {
  it.effect("is given each event encoded once, whoever is subscribed here, and not what is local", () =>
    Effect.gen(function* () {
      const { sent, services } = yield* connected
      yield* Effect.gen(function* () {
        const { node } = yield* PubSub.PubSub
        const subscription = yield* PubSub.subscribe(dates)
        yield* PubSub.subscribe(dates)
        yield* PubSub.broadcast(dates, first)
        yield* PubSub.broadcastNow(dates, second)
        yield* PubSub.broadcastFrom(subscription, dates, second)
        yield* PubSub.localBroadcast(dates, second)
        yield* PubSub.directBroadcast(node, dates, second)
        yield* PubSub.directBroadcast("other", dates, first)
        const topic = "numbers:1"
        assert.deepStrictEqual(sent, [
          [{ topic, event: first.toJSON() }, undefined],
          [{ topic, event: second.toJSON() }, undefined],
          [{ topic, event: second.toJSON() }, undefined],
          [{ topic, event: first.toJSON() }, "other"]
        ])
        const events = [first, second, second, second]
        assert.deepStrictEqual(
          yield* next(subscription, 4),
          events.map((event) => said(event, node))
        )
      }).pipe(Effect.provideContext(services))
    }).pipe(Effect.scoped)
  )

  it.effect("delivers events decoded, with the node that they come from, and gaps to all", () =>
    Effect.gen(function* () {
      const { receiver, services } = yield* connected
      yield* Effect.gen(function* () {
        const one = yield* PubSub.subscribe(dates)
        const two = yield* PubSub.subscribe(dates)
        const elsewhere = yield* PubSub.subscribe(Numbers(2))
        receiver.deliver({ topic: dates.id, event: first.toJSON() }, "other")
        receiver.gap("missed")
        receiver.deliver({ topic: "numbers:3", event: first.toJSON() }, "other")
        receiver.deliver({ topic: dates.id, event: second.toJSON() }, "other")
        const gap = { _tag: "Gap", reason: "missed" } as const
        const messages = [said(first, "other"), gap, said(second, "other")]
        assert.deepStrictEqual(yield* next(one, 3), messages)
        assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(two.events, 2)), [first, second])
        assert.deepStrictEqual(yield* next(elsewhere, 1), [gap])
      }).pipe(Effect.provideContext(services))
    }).pipe(Effect.scoped)
  )

  it.effect("keeps topics apart, whatever their names and keys are", () =>
    Effect.gen(function* () {
      const { receiver, sent, services } = yield* connected
      const large = "x".repeat(1_000_000)
      const keys = ["", ":", "b", "b:c", "__proto__", "constructor", "\u0000", "\ud800", "\udc00", large, `${large}y`]
      const topics = ["a", "__proto__", "toString"].flatMap((name) => {
        const ofKey = Topic.make(name, { key: Schema.String, event: Schema.String })
        return [Topic.make(name, { event: Schema.String }), ...keys.map((key) => ofKey(key))]
      })
      yield* Effect.gen(function* () {
        const subscriptions = yield* Effect.forEach(topics, (topic) => PubSub.subscribe(topic))
        for (const [index, topic] of topics.entries()) yield* PubSub.broadcast(topic, `here ${index}`)
        for (const [index, [message]] of sent.entries()) {
          // As it is between nodes.
          const { topic } = JSON.parse(JSON.stringify(message)) as Adapter.Message
          receiver.deliver({ topic, event: `there ${index}` }, "__proto__")
        }
        for (const [index, { events }] of subscriptions.entries()) {
          const waiting = yield* Stream.runHead(Stream.chunks(events))
          assert.deepStrictEqual(Option.getOrThrow(waiting), [`here ${index}`, `there ${index}`])
        }
      }).pipe(Effect.provideContext(services))
    }).pipe(Effect.scoped)
  )

  it.effect("that tells gaps one after the other costs a subscription one message, and no event", () =>
    Effect.gen(function* () {
      const { receiver, services } = yield* connected
      const subscribe = (options: Subscription.SubscribeOptions) =>
        Effect.provideContext(PubSub.subscribe(dates, options), services)
      const event = () => receiver.deliver({ topic: dates.id, event: first.toJSON() }, "other")
      const gaps = () => {
        for (let times = 0; times < 2_000; times++) receiver.gap(times % 2 === 0 ? "disconnected" : "missed")
      }
      const waiting = (subscription: Subscription.Subscription<Date>) =>
        Effect.map(Stream.runHead(Stream.chunks(subscription.messages)), (chunk) =>
          (Option.isSome(chunk) ? chunk.value : []).map((message) =>
            message._tag === "Lagged" ? message.missed : message._tag
          )
        )
      for (const policy of ["sliding", "dropping", "fail"] as const) {
        const roomy = yield* subscribe({ policy })
        const full = yield* subscribe({ policy, capacity: 2 })
        event()
        event()
        gaps()
        assert.deepStrictEqual(yield* waiting(roomy), ["Event", "Event", "Gap"])
        assert.deepStrictEqual(
          yield* waiting(full),
          policy === "sliding" ? [1, "Event", "Gap"] : ["Event", "Event", "Gap"]
        )
        if (policy === "fail") continue
        gaps()
        for (let events = 0; events < 5; events++) event()
        assert.deepStrictEqual(
          yield* waiting(full),
          policy === "sliding" ? [3, "Gap", "Event", "Event"] : ["Gap", "Event", 4]
        )
        for (let events = 0; events < 5; events++) event()
        gaps()
        for (let events = 0; events < 5; events++) event()
        assert.deepStrictEqual(
          yield* waiting(full),
          policy === "sliding" ? [8, "Gap", "Event", "Event"] : ["Event", "Event", 8, "Gap"]
        )
      }
    }).pipe(Effect.scoped)
  )

  it.effect(
    "that delivers much at once robs nobody who waits for it, and others of no more than they have no room for",
    () =>
      Effect.gen(function* () {
        const { receiver, services } = yield* connected
        const subscribe = Effect.provideContext(PubSub.subscribe(dates, { capacity: 10 }), services)
        const taking = yield* subscribe
        const taken = yield* Effect.forkChild(Stream.runCollect(Stream.take(taking.messages, 10_000)), {
          startImmediately: true
        })
        const idle = yield* subscribe
        for (let event = 0; event < 10_000; event++) {
          receiver.deliver({ topic: dates.id, event: first.toJSON() }, "other")
        }
        const messages = yield* Fiber.join(taken)
        assert.isTrue(messages.every(({ _tag }) => _tag === "Event"))
        assert.deepStrictEqual((yield* next(idle, 11))[0], { _tag: "Lagged", missed: 9_990 })
      }).pipe(Effect.scoped)
  )

  it.effect("that delivers what is unknown here harms nobody: it is counted, and warned of once a minute", () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => lines.push(String(message)))
    return Effect.gen(function* () {
      const { receiver, services } = yield* connected
      const subscription = yield* Effect.provideContext(PubSub.subscribe(dates), services)
      for (const event of [42, { _tag: "New" }, undefined]) receiver.deliver({ topic: dates.id, event }, "other")
      receiver.deliver({ topic: dates.id, event: first.toJSON() }, "other")
      assert.deepStrictEqual(yield* next(subscription, 1), [said(first, "other")])
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      assert.lengthOf(lines, 1)
      assert.include(lines[0], "An event of numbers:1 that node other broadcast could not be decoded here")
      const counted = (yield* Metric.snapshot).filter(({ id }) => id === "coppice_pubsub_undecodable_total")
      assert.deepStrictEqual(
        counted.map(({ attributes, state }) => [attributes, state]),
        [[{ topic: "numbers" }, { count: 3, incremental: true }]]
      )
    }).pipe(
      Effect.scoped,
      Effect.provideService(Metric.MetricRegistry, new Map()),
      Effect.provide(Logger.layer([logger]))
    )
  })

  it.effect("is not given an event that does not fit its schema, and nobody else gets it", () =>
    Effect.gen(function* () {
      const { sent, services } = yield* connected
      const Short = Topic.make("short", { event: Schema.String.check(Schema.isMaxLength(3)) })
      yield* Effect.gen(function* () {
        const subscription = yield* PubSub.subscribe(Short)
        for (const refused of [
          PubSub.broadcast(Short, "long"),
          PubSub.broadcastNow(Short, "long"),
          PubSub.broadcastFrom(subscription, Short, "long"),
          PubSub.directBroadcast("other", Short, "long")
        ]) {
          const error = Result.getOrThrow(Result.flip(yield* Effect.result(refused)))
          assert.include(error.message, "An event of short cannot be broadcast: it does not fit its schema")
        }
        yield* PubSub.broadcast(Short, "ok")
        assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(subscription.events, 1)), ["ok"])
        assert.lengthOf(sent, 1)
      }).pipe(Effect.provideContext(services))
    }).pipe(Effect.scoped)
  )

  it.effect("tells of its status, the present one first", () =>
    Effect.gen(function* () {
      const { receiver, services } = yield* connected
      const pubsub = yield* Effect.provideContext(PubSub.PubSub, services)
      assert.strictEqual(yield* pubsub.status, "disconnected")
      receiver.status("clustered")
      assert.strictEqual(yield* pubsub.status, "clustered")
      assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(pubsub.statusChanges, 1)), ["clustered"])
    }).pipe(Effect.scoped)
  )
})
