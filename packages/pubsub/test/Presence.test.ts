import { Presence, PubSub } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Metric, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"

class Viewers extends Presence.Service<Viewers>()("test/Viewers", {
  topic: Schema.Int,
  meta: Schema.Struct({ name: Schema.String })
}) {}

const local = Effect.provide(Viewers.layer.pipe(Layer.provide(PubSub.layerLocal)))

const ada = { name: "Ada" }
const grace = { name: "Grace" }

const names = (present: Presence.Present<{ readonly name: string }, unknown>) =>
  Object.fromEntries(Array.from(present, ([key, entries]) => [key, entries.map(({ meta }) => meta.name)]))

const shown = ({ joins, leaves }: Presence.Diff<{ readonly name: string }, unknown>) => ({
  joins: names(joins),
  leaves: names(leaves)
})

/** Runs an effect in a scope of its own; answers with what it gave and how to close the scope. */
const inScope = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const value = yield* Scope.provide(effect, scope)
    return { value, close: Scope.close(scope, Exit.void) }
  })

/** Collects what a stream gives from now on. */
const collected = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
  Effect.gen(function* () {
    const all: Array<A> = []
    yield* Effect.forkScoped(
      Stream.runForEach(stream, (a) => Effect.sync(() => all.push(a))),
      {
        startImmediately: true
      }
    )
    return all
  })

const settle = Effect.repeat(Effect.yieldNow, { times: 20 })

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
})
export const unused = [Cause, Deferred, Fiber, Metric, TestClock, grace, shown, collected, settle, local]
