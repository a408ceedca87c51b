import { PubSub, type Subscription, Topic } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Schema, Scope, Stream } from "effect"

const Rooms = Topic.make("room", { key: Schema.Int, event: Schema.String })
const lobby = Rooms(1)

const local = Effect.provide(PubSub.layerLocal)

/** The next so many messages. */
const next = (subscription: Subscription.Subscription<string>, n: number) =>
  Effect.map(Stream.runCollect(Stream.take(subscription.messages, n)), (messages) =>
    messages.map((message) =>
      message._tag === "Event" ? message.event : message._tag === "Lagged" ? `missed ${message.missed}` : "gap"
    )
  )

describe("a subscription", () => {
  it.effect("gets what is broadcast on its topic after it was made, in order, and nothing else", () =>
    Effect.gen(function* () {
      yield* PubSub.broadcast(lobby, "before")
      const subscription = yield* PubSub.subscribe(lobby)
      yield* PubSub.broadcast(Rooms(2), "elsewhere")
      for (const event of ["a", "b", "c"]) yield* PubSub.broadcast(lobby, event)
      assert.deepStrictEqual(yield* next(subscription, 3), ["a", "b", "c"])
    }).pipe(Effect.scoped, local)
  )

  it.effect("made twice is delivered to twice, and ends with its scope", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const one = yield* PubSub.subscribe(lobby)
      const two = yield* Scope.provide(PubSub.subscribe(lobby), scope)
      const all = yield* Effect.forkChild(Stream.runCollect(two.events), { startImmediately: true })
      yield* PubSub.broadcast(lobby, "a")
      yield* Effect.yieldNow
      assert.strictEqual(yield* PubSub.subscriberCount(lobby), 2)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(all), ["a"])
      assert.strictEqual(yield* PubSub.subscriberCount(lobby), 1)
      assert.deepStrictEqual(yield* next(one, 1), ["a"])
    }).pipe(Effect.scoped, local)
  )

  it.effect("that is slow loses the oldest events and learns how many, and nobody else notices", () =>
    Effect.gen(function* () {
      const slow = yield* PubSub.subscribe(lobby, { capacity: 2 })
      const newest = yield* PubSub.subscribe(lobby, { capacity: 2, policy: "dropping" })
      const other = yield* PubSub.subscribe(lobby)
      for (const event of ["a", "b", "c", "d", "e"]) yield* PubSub.broadcast(lobby, event)
      assert.deepStrictEqual(yield* next(slow, 3), ["missed 3", "d", "e"])
      assert.deepStrictEqual(yield* next(newest, 3), ["a", "b", "missed 3"])
      assert.deepStrictEqual(yield* next(other, 5), ["a", "b", "c", "d", "e"])
    }).pipe(Effect.scoped, local)
  )

  it.effect("that must not lose any fails instead, when it has taken what it can have", () =>
    Effect.gen(function* () {
      const strict = yield* PubSub.subscribe(lobby, { capacity: 2, policy: "fail" })
      for (const event of ["a", "b", "c"]) yield* PubSub.broadcast(lobby, event)
      const taken: Array<string> = []
      const error = yield* Effect.flip(
        Stream.runForEach(strict.events, (event) => Effect.sync(() => taken.push(event)))
      )
      assert.deepStrictEqual(taken, ["a", "b"])
      assert.strictEqual(error._tag, "SubscriberTooSlow")
      assert.include(error.message, "had more than 2 messages waiting")
    }).pipe(Effect.scoped, local)
  )

  it.effect("does not hear what is broadcast from it", () =>
    Effect.gen(function* () {
      const one = yield* PubSub.subscribe(lobby)
      const two = yield* PubSub.subscribe(lobby)
      yield* PubSub.broadcastFrom(one, lobby, "a")
      yield* PubSub.broadcast(lobby, "b")
      assert.deepStrictEqual(yield* next(one, 1), ["b"])
      assert.deepStrictEqual(yield* next(two, 2), ["a", "b"])
    }).pipe(Effect.scoped, local)
  )

  it.effect("leaves nothing behind, in whatever order subscriptions of a topic end", () =>
    Effect.gen(function* () {
      for (const order of [
        [0, 1, 2],
        [2, 1, 0],
        [1, 0, 2],
        [1, 2, 0]
      ]) {
        const scopes = yield* Effect.all([Scope.make(), Scope.make(), Scope.make()])
        for (const scope of scopes) yield* Scope.provide(PubSub.subscribe(lobby), scope)
        let left = 3
        for (const index of order) {
          yield* Scope.close(scopes[index] ?? scopes[0], Exit.void)
          assert.strictEqual(yield* PubSub.subscriberCount(lobby), --left)
        }
      }
    }).pipe(local)
  )
})

it.effect("the status of a PubSub of one process is that, and its changes do not end", () =>
  Effect.gen(function* () {
    const { status, statusChanges } = yield* PubSub.PubSub
    const seen: Array<string> = []
    const following = yield* Effect.forkChild(
      Stream.runForEach(statusChanges, (now) => Effect.sync(() => seen.push(now)))
    )
    for (let turns = 0; turns < 10; turns++) yield* Effect.yieldNow
    assert.deepStrictEqual([yield* status, ...seen], ["solitary", "solitary"])
    assert.isUndefined(following.pollUnsafe())
  }).pipe(local)
)
