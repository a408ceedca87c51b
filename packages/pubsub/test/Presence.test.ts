import { Presence, PubSub } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Option, References, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { ada, collected, grace, inScope, names, settle, turn } from "./fixtures/Presence.ts"

class Viewers extends Presence.Service<Viewers>()("test/Viewers", {
  topic: Schema.Int,
  meta: Schema.Struct({ name: Schema.String })
}) {}

class Scored extends Presence.Service<Scored>()("test/Scored", { topic: Schema.Int, meta: Schema.Int }) {}

const local = Effect.provide(Viewers.layer.pipe(Layer.provide(PubSub.layerLocal)))

const shown = ({ joins, leaves }: Presence.Diff<{ readonly name: string }, unknown>) => ({
  joins: names(joins),
  leaves: names(leaves)
})

describe("track", () => {
  it.effect("has somebody be here until the scope closes", () =>
    Effect.gen(function* () {
      const { close, value: tracked } = yield* inScope(Viewers.track(1, "ada", ada))
      const entry = {
        ref: tracked.ref,
        previousRef: undefined,
        node: (yield* PubSub.PubSub).node,
        meta: ada,
        fetched: undefined
      }
      assert.deepStrictEqual(yield* Viewers.list(1), new Map([["ada", [entry]]]))
      assert.deepStrictEqual(yield* Viewers.getByKey(1, "ada"), [entry])
      assert.deepStrictEqual(yield* Viewers.list(2), new Map())
      assert.strictEqual(yield* Viewers.tracked, 1)
      yield* close
      assert.deepStrictEqual(yield* Viewers.list(1), new Map())
      assert.deepStrictEqual(yield* Viewers.getByKey(1, "ada"), [])
      assert.strictEqual(yield* Viewers.tracked, 0)
    }).pipe(Effect.scoped, Effect.provide(Viewers.layer.pipe(Layer.provideMerge(PubSub.layerLocal))))
  )

  it.effect("under a key that has entries is the newest of them, also where the clock was set back", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("1 hour")
      const phone = yield* inScope(Viewers.track(1, "ada", { name: "first" }))
      yield* TestClock.setTime(0)
      yield* inScope(Viewers.track(1, "ada", { name: "second" }))
      assert.deepStrictEqual(names(yield* Viewers.list(1)), { ada: ["first", "second"] })
      yield* phone.close
    }).pipe(Effect.scoped, local)
  )

  it.effect("twice for one key in one scope fails with AlreadyTracked; in another scope it is another entry", () =>
    Effect.gen(function* () {
      const first = yield* Viewers.track(1, "ada", ada)
      const error = yield* Effect.flip(Viewers.track(1, "ada", grace))
      assert.instanceOf(error, Presence.AlreadyTracked)
      assert.include(error.message, `This scope tracks "ada" in test/Viewers 1 already`)
      yield* Viewers.track(2, "ada", ada)
      const device = yield* inScope(Viewers.track(1, "ada", { name: "Ada's phone" }))
      const both = yield* Viewers.getByKey(1, "ada")
      assert.deepStrictEqual(
        both.map(({ meta, ref }) => [meta.name, ref]),
        [
          ["Ada", first.ref],
          ["Ada's phone", device.value.ref]
        ]
      )
      yield* device.close
      yield* first.untrack
      assert.deepStrictEqual(yield* Viewers.list(1), new Map())
      yield* Viewers.track(1, "ada", ada)
      assert.deepStrictEqual(names(yield* Viewers.list(1)), { ada: ["Ada"] })
    }).pipe(Effect.scoped, local)
  )

  it.effect("in a scope that has closed already is nobody", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const tracked = yield* Viewers.track(1, "ada", ada).pipe(Scope.provide(scope))
      assert.deepStrictEqual(yield* Viewers.list(1), new Map())
      assert.strictEqual((yield* Effect.flip(tracked.update(grace)))._tag, "NotTracked")
    }).pipe(local)
  )

  it.effect("with a meta that does not fit its schema fails with InvalidMeta, and is nobody", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Scored.track(1, "ada", Number.NaN))
      assert.instanceOf(error, Presence.InvalidMeta)
      assert.include(error.message, `The meta of "ada" in test/Scored 1 cannot be told to other nodes`)
      assert.deepStrictEqual(yield* Scored.list(1), new Map())
      const tracked = yield* Scored.track(1, "ada", 1)
      assert.strictEqual((yield* Effect.flip(tracked.update(Number.NaN)))._tag, "InvalidMeta")
      assert.strictEqual((yield* Scored.getByKey(1, "ada"))[0]?.meta, 1)
    }).pipe(Effect.scoped, Effect.provide(Scored.layer.pipe(Layer.provide(PubSub.layerLocal))))
  )

  it.effect("leaves nothing in the scope for what was untracked", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      for (let n = 0; n < 100; n++) {
        const tracked = yield* Viewers.track(1, "ada", ada).pipe(Scope.provide(scope))
        yield* tracked.untrack
        yield* tracked.untrack
      }
      assert.strictEqual(scope.state._tag, "Empty")
      assert.strictEqual(yield* Viewers.tracked, 0)
      yield* Scope.close(scope, Exit.void)
    }).pipe(local)
  )

  it.effect("after presence has ended is nobody, and harms nobody", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const layer = Viewers.layer.pipe(Layer.provide(PubSub.layerLocal))
      const context = yield* Layer.buildWithScope(layer, scope)
      yield* Effect.gen(function* () {
        const tracked = yield* Viewers.track(1, "ada", ada)
        const diffs = yield* Effect.forkChild(Stream.runCollect(Viewers.diffs(1)), { startImmediately: true })
        const changes = yield* Effect.forkChild(Stream.runCollect(Viewers.changes(1)), { startImmediately: true })
        yield* settle
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(yield* Fiber.join(diffs), [])
        assert.strictEqual((yield* Fiber.join(changes)).length, 1)
        yield* tracked.update(grace)
        yield* tracked.untrack
        yield* Viewers.track(1, "grace", grace)
        assert.deepStrictEqual(yield* Stream.runCollect(Viewers.diffs(1)), [])
      }).pipe(Effect.scoped, Effect.provideContext(context))
    })
  )
})

describe("update", () => {
  it.effect("takes a meta or what makes it of the old one, and keeps the ref before", () =>
    Effect.gen(function* () {
      const tracked = yield* Viewers.track(1, "ada", ada)
      const first = tracked.ref
      yield* tracked.update({ name: "Countess" })
      const second = tracked.ref
      yield* tracked.update(({ name }) => ({ name: `${name}!` }))
      assert.strictEqual(new Set([first, second, tracked.ref]).size, 3)
      const [entry] = yield* Viewers.getByKey(1, "ada")
      assert.deepStrictEqual([entry?.meta.name, entry?.ref, entry?.previousRef], ["Countess!", tracked.ref, second])
    }).pipe(Effect.scoped, local)
  )

  it.effect("of what was untracked fails with NotTracked", () =>
    Effect.gen(function* () {
      const tracked = yield* Viewers.track(1, "ada", ada)
      yield* tracked.untrack
      const error = yield* Effect.flip(tracked.update(grace))
      assert.instanceOf(error, Presence.NotTracked)
      assert.include(error.message, `"ada" is not tracked any more in test/Viewers 1`)
      assert.deepStrictEqual(yield* Viewers.list(1), new Map())
    }).pipe(Effect.scoped, local)
  )
})

describe("diffs", () => {
  it.effect("tell of each change of the topic, in order, and an update is one", () =>
    Effect.gen(function* () {
      const diffs = yield* collected(Viewers.diffs(1))
      yield* settle
      const tracked = yield* Viewers.track(1, "ada", ada)
      yield* Viewers.track(2, "elsewhere", ada)
      yield* tracked.update(grace)
      yield* tracked.untrack
      yield* settle
      assert.deepStrictEqual(diffs.map(shown), [
        { joins: { ada: ["Ada"] }, leaves: {} },
        { joins: { ada: ["Grace"] }, leaves: { ada: ["Ada"] } },
        { joins: {}, leaves: { ada: ["Grace"] } }
      ])
    }).pipe(Effect.scoped, local)
  )

  it.effect("of a subscription follow on its list without a gap", () =>
    Effect.gen(function* () {
      yield* Viewers.track(1, "ada", ada)
      const { diffs, present } = yield* Viewers.subscribe(1)
      yield* Viewers.track(1, "grace", grace)
      assert.deepStrictEqual(names(present), { ada: ["Ada"] })
      const first = yield* Stream.runHead(diffs)
      assert.deepStrictEqual(Option.map(first, shown), Option.some({ joins: { grace: ["Grace"] }, leaves: {} }))
    }).pipe(Effect.scoped, local)
  )

  it.effect("that a slow reader did not take come as one, in which what came and left again is not", () =>
    Effect.gen(function* () {
      const { diffs } = yield* Viewers.subscribe(1)
      const stays = yield* Viewers.track(1, "stays", { name: "0" })
      for (let n = 1; n <= 1_000; n++) {
        yield* stays.update({ name: `${n}` })
        yield* Effect.scoped(Viewers.track(1, `${n}`, ada))
      }
      const waiting = yield* Stream.runHead(diffs)
      assert.deepStrictEqual(Option.map(waiting, shown), Option.some({ joins: { stays: ["1000"] }, leaves: {} }))
    }).pipe(Effect.scoped, local)
  )

  it.effect("leave nothing behind when they end", () =>
    Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* collected(Viewers.diffs(1))
          yield* collected(Viewers.changes(1))
          yield* settle
        })
      )
      yield* Viewers.track(1, "ada", ada)
      assert.deepStrictEqual(names(yield* Viewers.list(1)), { ada: ["Ada"] })
    }).pipe(Effect.scoped, local)
  )
})

describe("changes", () => {
  it.effect("give the present list first, and then the latest", () =>
    Effect.gen(function* () {
      const seen: Array<ReadonlyArray<string>> = []
      yield* Effect.forkScoped(
        Stream.runForEach(Viewers.changes(1), (present) =>
          Effect.delay(
            Effect.sync(() => seen.push([...present.keys()])),
            "1 second"
          )
        ),
        { startImmediately: true }
      )
      yield* settle
      for (const key of ["a", "b", "c"]) yield* Viewers.track(1, key, ada)
      for (let seconds = 0; seconds < 4; seconds++) yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [[], ["a", "b", "c"]])
    }).pipe(Effect.scoped, local)
  )
})

describe("a reader", () => {
  it.effect("learns of a change at whatever moment it comes, also while the reader is about to wait", () =>
    Effect.gen(function* () {
      // The readers yield to others after so many steps, and the second change comes after so many turns.
      for (const steps of [5, 6, 7, 8, 9, 10, 11, 13]) {
        for (let turns = 0; turns < 20; turns++) {
          yield* Effect.gen(function* () {
            const slowly = Effect.provideService(References.MaxOpsBeforeYield, steps)
            const diffs = yield* slowly(collected(Viewers.diffs(1)))
            const lists = yield* slowly(collected(Viewers.changes(1)))
            yield* turn(100)
            yield* Viewers.track(1, "first", ada)
            yield* turn(turns)
            yield* Viewers.track(1, "last", ada)
            yield* turn(100)
            assert.strictEqual(diffs.length, 2, `diffs, ${steps} steps and ${turns} turns`)
            assert.strictEqual(lists.at(-1)?.size, 2, `lists, ${steps} steps and ${turns} turns`)
          }).pipe(Effect.scoped)
        }
      }
    }).pipe(local)
  )
})

describe("options that are not possible", () => {
  const wrong: ReadonlyArray<readonly [Presence.Options, string]> = [
    [{ broadcastPeriod: 0 }, "broadcastPeriod must be longer than 0 ms"],
    [{ maxSilentPeriods: 0.5 }, "maxSilentPeriods must be an integer from 1, but is 0.5"],
    [
      { maxSilentPeriods: 1, downPeriod: "2 seconds" },
      "downPeriod (2000 ms) must be at least twice broadcastPeriod (1500 ms)"
    ],
    [
      { downPeriod: "10 seconds" },
      "downPeriod (10000 ms) must be longer than broadcastPeriod times maxSilentPeriods (15000 ms)"
    ],
    [{ permdownPeriod: "30 seconds" }, "permdownPeriod (30000 ms) must be longer than downPeriod (30000 ms)"],
    [{ fetchTimeout: 0 }, "fetchTimeout must be longer than 0 ms"]
  ]
  for (const [options, problem] of wrong) {
    it.effect(`are refused: ${problem}`, () =>
      Effect.gen(function* () {
        const layer = Viewers.layerWith(options).pipe(Layer.provide(PubSub.layerLocal))
        const error = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
        assert.instanceOf(error, Presence.InvalidOptions)
        assert.include(error.message, `The options of presence test/Viewers are not possible: ${problem}`)
      })
    )
  }
})

describe("ten thousand who are tracked", () => {
  it.effect("cost each the same, also while somebody follows the list, under many keys or one", () =>
    Effect.gen(function* () {
      const followed = yield* collected(Viewers.changes(1))
      const { diffs } = yield* Viewers.subscribe(1)
      for (const { keyOf, length } of [
        { length: 10_000, keyOf: (n: number) => `key ${n}` },
        { length: 2_000, keyOf: () => "one key" }
      ]) {
        followed.length = 0
        const { close } = yield* inScope(
          Effect.forEach(
            Array.from({ length }, (_, n) => n),
            (n) =>
              inScope(Viewers.track(1, keyOf(n), ada)).pipe(
                Effect.tap(({ close }) => Effect.addFinalizer(() => close))
              ),
            { discard: true }
          )
        )
        yield* settle
        assert.strictEqual([...(followed.at(-1)?.values() ?? [])].flat().length, length)
        yield* close
        yield* settle
        assert.strictEqual(followed.at(-1)?.size, 0)
        // Copying the list for each of them would be quadratic.
        assert.isBelow(followed.length, 1_000)
      }
      const all = yield* Effect.forkChild(Stream.runHead(diffs), { startImmediately: true })
      yield* settle
      assert.isUndefined(all.pollUnsafe(), "what came and left again is no diff")
    }).pipe(Effect.scoped, local)
  )
})
