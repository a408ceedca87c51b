// A fiber that is forked into the layer's scope is a link, whoever else learns of its failure: also one that a stream
// forks there to produce ahead of its consumers. `Process.unlinked` and `linkFibers: false` say that they are enough.
import { Child, Process } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, PubSub, Pull, Queue, type Scope, Stream } from "effect"
import { scenario, settle, startApp } from "./fixtures/Scenario.ts"

/** Restarts of a child that hands its failing stream to somebody who handles the failure, and what that one learned. */
const handled = (
  hand: (
    failing: Stream.Stream<number, string>
  ) => Effect.Effect<Effect.Effect<unknown, unknown>, unknown, Scope.Scope | Process.Process>,
  options?: Child.Options
) =>
  Effect.gen(function* () {
    const fuse = Deferred.makeUnsafe<never, string>()
    const learned: Array<unknown> = []
    let starts = 0
    const failing = Stream.concat(Stream.make(1), Stream.fromEffect(Deferred.await(fuse)))
    const layer = Layer.effectDiscard(
      Effect.gen(function* () {
        if (++starts > 1) return
        const consume = yield* hand(failing)
        yield* Effect.forkDetach(Effect.catch(consume, (error) => Effect.sync(() => learned.push(error))))
      })
    )
    yield* startApp("one_for_one", [Child.layer("a", layer, options)])
    yield* settle
    yield* Deferred.fail(fuse, "no more")
    yield* settle
    return { learned, restarts: starts - 1 }
  })

type Hand = (
  failing: Stream.Stream<number, string>
) => Effect.Effect<Effect.Effect<unknown, unknown>, unknown, Scope.Scope>

const pulled =
  (through: (stream: Stream.Stream<number, string>) => Stream.Stream<unknown, string>): Hand =>
  (failing) =>
    Effect.map(Stream.toPull(through(failing)), (pull) => Pull.catchDone(Effect.forever(pull), () => Effect.void))

const linked: ReadonlyArray<readonly [string, Hand]> = [
  ["Stream.broadcast", (failing) => Effect.map(Stream.broadcast(failing, { capacity: 4 }), Stream.runDrain)],
  [
    "Stream.broadcastN",
    (failing) => Effect.map(Stream.broadcastN(failing, { n: 1, capacity: 4 }), ([only]) => Stream.runDrain(only))
  ],
  [
    "Stream.toPubSubTake",
    (failing) =>
      Effect.gen(function* () {
        const takes = yield* PubSub.subscribe(yield* Stream.toPubSubTake(failing, { capacity: 4, replay: 4 }))
        return Stream.runDrain(Stream.flattenTake(Stream.fromSubscription(takes)))
      })
  ],
  ["Stream.toPull of a buffer", pulled(Stream.buffer({ capacity: 4 }))],
  ["Stream.toPull of a debounce", pulled(Stream.debounce(10))]
]

describe("a stream that is run ahead in the layer's own scope: its failure is the child's, and the consumer's", () => {
  for (const [what, hand] of linked) {
    scenario(what, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* handled(hand), { learned: ["no more"], restarts: 1 })
        assert.deepStrictEqual(
          yield* handled((failing) => Process.unlinked(hand(failing))),
          { learned: ["no more"], restarts: 0 },
          "not in Process.unlinked"
        )
        assert.deepStrictEqual(
          yield* handled(hand, { linkFibers: false }),
          { learned: ["no more"], restarts: 0 },
          "not with linkFibers: false"
        )
      })
    )
  }
})

describe("a stream whose failure is the consumer's alone", () => {
  const alone: ReadonlyArray<readonly [string, Hand]> = [
    ["is shared", (failing) => Effect.map(Stream.share(failing, { capacity: 4 }), Stream.runDrain)],
    [
      "feeds a queue",
      (failing) => Effect.map(Stream.toQueue(failing, { capacity: 4 }), (queue) => Effect.forever(Queue.take(queue)))
    ],
    ["is pulled one by one", pulled((stream) => Stream.map(stream, (n) => n + 1))],
    ["is merged and pulled", pulled((stream) => Stream.merge(stream, Stream.never))],
    ["is run by the consumer", (failing) => Effect.succeed(Stream.runDrain(Stream.buffer(failing, { capacity: 4 })))]
  ]
  for (const [what, hand] of alone) {
    scenario(what, () =>
      Effect.map(handled(hand), (seen) => assert.deepStrictEqual(seen, { learned: ["no more"], restarts: 0 }))
    )
  }
})

describe("a fiber that the layer forks into its scope, and whose failure somebody waits for and handles", () => {
  const awaited: Hand = (failing) => Effect.map(Effect.forkScoped(Stream.runDrain(failing)), Fiber.join)

  scenario("is a link all the same, unless it is unlinked or a child of who waits", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* handled(awaited), { learned: ["no more"], restarts: 1 })
      const unlinked = yield* handled((failing) => Process.unlinked(awaited(failing)))
      assert.deepStrictEqual(unlinked, { learned: ["no more"], restarts: 0 })
      const child = yield* handled((failing) =>
        Effect.succeed(Effect.flatMap(Effect.forkChild(Stream.runDrain(failing)), Fiber.join))
      )
      assert.deepStrictEqual(child, { learned: ["no more"], restarts: 0 })
    })
  )
})
