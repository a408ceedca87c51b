// What a child has from others: the services of its siblings and of the world outside, and what is built only once.
import { Child, Supervisor } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

class Shared extends Context.Service<Shared, { readonly number: number }>()("test/Shared") {}
class First extends Context.Service<First, { readonly number: number }>()("test/First") {}
class Second extends Context.Service<Second, { readonly number: number }>()("test/Second") {}

describe("what a child sees", () => {
  scenario("are the services of the children before it, and those from outside", () =>
    Effect.gen(function* () {
      const seen: Array<number | undefined> = []
      const look = Layer.effectDiscard(
        Effect.gen(function* () {
          const context = yield* Effect.context<never>()
          seen.push(
            Context.getOrUndefined(context, Shared)?.number,
            Context.getOrUndefined(context, First)?.number,
            Context.getOrUndefined(context, Second)?.number
          )
        })
      )
      const App = Supervisor.layer("App", {
        strategy: "one_for_one",
        children: [
          Child.layer("early", look),
          Child.layer("first", Layer.succeed(First, { number: 1 })),
          Child.layer("between", look),
          Child.layer("second", Layer.succeed(Second, { number: 2 })),
          Child.layer("late", look)
        ]
      })
      const { context } = yield* start(Layer.provide(App, Layer.succeed(Shared, { number: 0 })))
      assert.deepStrictEqual(seen, [0, undefined, undefined, 0, 1, undefined, 0, 1, 2])
      assert.strictEqual(Context.get(context, First).number, 1)
      assert.strictEqual(Context.get(context, Second).number, 2)
    })
  )

  scenario("does not change when a later child has come up by the time it restarts", () =>
    Effect.gen(function* () {
      const seen: Array<boolean> = []
      const crash = Deferred.makeUnsafe<never>()
      const look = Layer.effectDiscard(
        Effect.gen(function* () {
          const context = yield* Effect.context<never>()
          seen.push(Context.getOrUndefined(context, First) !== undefined)
          if (seen.length === 1) yield* Effect.forkScoped(Deferred.await(crash))
        })
      )
      yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [Child.layer("early", look), Child.layer("first", Layer.succeed(First, { number: 1 }))]
        })
      )
      yield* Deferred.die(crash, "again")
      yield* settle
      assert.deepStrictEqual(seen, [false, false])
    })
  )

  scenario("of a service that two children provide is the last one's", () =>
    Effect.gen(function* () {
      const App = Supervisor.layer("App", {
        strategy: "one_for_one",
        children: [
          Child.layer("one", Layer.succeed(First, { number: 1 })),
          Child.layer("two", Layer.succeed(First, { number: 2 })),
          Child.layer("three", Layer.effect(Second, First))
        ]
      })
      const { context } = yield* start(App)
      assert.strictEqual(Context.get(context, First).number, 2)
      assert.strictEqual(Context.get(context, Second).number, 2)
    })
  )
})

describe("what is built once", () => {
  let built = 0
  const counted = Layer.effect(
    Shared,
    Effect.gen(function* () {
      const number = ++built
      return { number }
    })
  )
  const seen: Array<number> = []
  const use = (crash: Deferred.Deferred<never>) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        seen.push((yield* Shared).number)
        yield* Effect.forkScoped(Deferred.await(crash))
      })
    )
  const reset = () => {
    built = 0
    seen.length = 0
    return Deferred.makeUnsafe<never>()
  }

  scenario("a layer that is shared from outside stays shared, also by restarted children", () =>
    Effect.gen(function* () {
      let crash = reset()
      const layer = Layer.provide(
        Layer.suspend(() => use(crash)),
        counted
      )
      const App = Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("a", layer)] })
      yield* start(Layer.provideMerge(App, counted))
      const first = crash
      crash = Deferred.makeUnsafe()
      yield* Deferred.die(first, "again")
      yield* settle
      assert.deepStrictEqual(seen, [1, 1])
      assert.strictEqual(built, 1)
    })
  )

  scenario("a child's restart shares nothing with its own past", () =>
    Effect.gen(function* () {
      let crash = reset()
      const layer = Layer.provide(
        Layer.suspend(() => use(crash)),
        counted
      )
      yield* startApp("one_for_one", [Child.layer("a", layer)])
      const first = crash
      crash = Deferred.makeUnsafe()
      yield* Deferred.die(first, "again")
      yield* settle
      assert.deepStrictEqual(seen, [1, 2])
    })
  )

  scenario("one layer value that two children bring along is built for each, and once within a child", () =>
    Effect.gen(function* () {
      const crash = reset()
      const twice = Layer.mergeAll(Layer.provide(use(crash), counted), Layer.provide(use(crash), counted))
      yield* startApp("one_for_one", [Child.layer("a", twice), Child.layer("b", Layer.provide(use(crash), counted))])
      assert.strictEqual(built, 2)
      assert.deepStrictEqual(seen, [1, 1, 2])
    })
  )

  scenario("the same layer value as two children is two children", () =>
    Effect.gen(function* () {
      reset()
      yield* startApp("one_for_one", [Child.layer("a", counted), Child.layer("b", counted)])
      assert.strictEqual(built, 2)
    })
  )

  scenario("a shared layer outlives the child that shares it", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const shared = Layer.effectDiscard(Effect.addFinalizer(() => Effect.sync(() => log.push("shared closed"))))
      const { a } = cast("a")
      const App = Supervisor.layer("App", {
        strategy: "one_for_one",
        children: [Child.layer("a", Layer.provide(a.layer, shared))]
      })
      const app = yield* start(Layer.provideMerge(App, shared))
      yield* a.crash()
      yield* settle
      assert.deepStrictEqual(log, [])
      yield* app.stop
      assert.deepStrictEqual(log, ["shared closed"])
    })
  )
})

describe("a layer that is used twice", () => {
  it.effect("gives two trees that know nothing of each other", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      const App = Supervisor.layer("Twin", { strategy: "one_for_one", children: [a.child()] })
      const one = yield* start(App)
      const two = yield* start(App)
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "+a +a -a +a")
      yield* one.stop
      yield* two.stop
      assert.strictEqual(journal.take(), "-a -a")
    })
  )
})
