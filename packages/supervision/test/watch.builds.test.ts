// Layers that the code of a child's layer builds itself: the child's own when they are built in its own scope.
import { Child, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, LayerMap, Scope } from "effect"
import { scenario, settle, startApp } from "./fixtures/Scenario.ts"

class A extends Context.Service<A, { readonly number: number }>()("test/builds/A") {}

const forked = (effect: Effect.Effect<unknown, unknown>) => Layer.effectDiscard(Effect.forkScoped(effect))
const a = Layer.succeed(A, { number: 1 })

/** A child whose code has a fuse for what it builds, and how often it was restarted when the fuse has blown. */
const restarts = (
  child: (code: Effect.Effect<unknown, unknown, Scope.Scope>) => Child.Child<string, unknown, unknown, never>,
  make: (fuse: Effect.Effect<never>) => Effect.Effect<unknown, unknown, Scope.Scope>
) =>
  Effect.gen(function* () {
    const fuse = Deferred.makeUnsafe<never>()
    let starts = 0
    yield* startApp("one_for_one", [
      child(Effect.suspend(() => (++starts === 1 ? make(Deferred.await(fuse)) : Effect.void)))
    ])
    yield* settle
    assert.strictEqual(starts, 1, "nothing has happened yet")
    yield* Deferred.die(fuse, "blown")
    yield* settle
    return (yield* Tree.get("App/a")).restarts
  })

const layer = (code: Effect.Effect<unknown, unknown, Scope.Scope>) => Child.layer("a", Layer.effectDiscard(code))
const effect = (code: Effect.Effect<unknown, unknown, Scope.Scope>) =>
  Child.effect("a", Effect.andThen(code, Effect.never))

type Make = (fuse: Effect.Effect<never>) => Effect.Effect<unknown, unknown, Scope.Scope>
const isCrash = (promise: string, make: Make, child = layer) =>
  scenario(promise, () => Effect.map(restarts(child, make), (n) => assert.strictEqual(n, 1)))
const isNone = (promise: string, make: Make, child = layer) =>
  scenario(promise, () => Effect.map(restarts(child, make), (n) => assert.strictEqual(n, 0)))

describe("a fiber of a layer that the child builds in its own scope is a crash when it fails:", () => {
  const own = (use: (scope: Scope.Scope) => Effect.Effect<unknown, unknown, Scope.Scope>) =>
    Effect.flatMap(Effect.scope, use)

  isCrash("Layer.build", (fuse) => Layer.build(forked(fuse)))
  isCrash("Layer.build in a child that is an effect", (fuse) => Layer.build(forked(fuse)), effect)
  isCrash("Layer.buildWithScope", (fuse) => own((scope) => Layer.buildWithScope(forked(fuse), scope)))
  isCrash("Layer.buildWithMemoMap with a fork of the current map", (fuse) =>
    own((scope) =>
      Effect.contextWith((context: Context.Context<never>) =>
        Layer.buildWithMemoMap(forked(fuse), Layer.CurrentMemoMap.forkOrCreate(context), scope)
      )
    )
  )
  isCrash("later, by a fiber of the child", (fuse) =>
    Effect.forkScoped(Effect.andThen(Effect.yieldNow, Layer.build(forked(fuse))))
  )
  isCrash("below other layers", (fuse) =>
    Layer.build(Layer.merge(a, Layer.provide(Layer.effectDiscard(Effect.andThen(A, Effect.forkScoped(fuse))), a)))
  )
  isCrash("below combinators that are not memoised", (fuse) =>
    Layer.build(
      Layer.unwrap(
        Effect.succeed(
          Layer.flatMap(a, () => Layer.catchCause(Layer.effectDiscard(Effect.die("no")), () => forked(fuse)))
        )
      )
    )
  )
  isCrash("a layer that builds another in the same way", (fuse) =>
    Layer.build(Layer.effectDiscard(Layer.build(Layer.effectDiscard(Layer.build(forked(fuse))))))
  )
  isCrash("after another was built and closed", (fuse) =>
    Effect.andThen(Effect.scoped(Layer.build(forked(Effect.never))), Layer.build(forked(fuse)))
  )

  scenario("and is built once by each build, as without supervision", () =>
    Effect.gen(function* () {
      let built = 0
      const counted = Layer.effect(
        A,
        Effect.sync(() => ({ number: ++built }))
      )
      const needs = () => Layer.effectDiscard(A)
      const twice = Layer.flatMap(Layer.provide(needs(), counted), () => Layer.provide(needs(), counted))
      yield* startApp("one_for_one", [
        layer(
          Effect.gen(function* () {
            yield* Layer.build(twice)
            assert.strictEqual(built, 1)
            yield* Layer.build(twice)
            assert.strictEqual(built, 2)
          })
        )
      ])
      assert.strictEqual(built, 2)
    })
  )

  scenario("and is stopped with the child", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const resource = Layer.effectDiscard(
        Effect.acquireRelease(
          Effect.sync(() => log.push("built")),
          () => Effect.sync(() => log.push("released"))
        )
      )
      const app = yield* startApp("one_for_one", [layer(Layer.build(Layer.merge(a, resource)))])
      assert.deepStrictEqual(log, ["built"])
      yield* Tree.kill("App/a")
      yield* settle
      assert.deepStrictEqual(log, ["built", "released", "built"])
      yield* app.stop
      assert.deepStrictEqual(log, ["built", "released", "built", "released"])
    })
  )
})

describe("no crash is a failing fiber of a layer that the child builds", () => {
  isNone("in a scope that it makes", (fuse) =>
    Effect.flatMap(Effect.acquireRelease(Scope.make(), Scope.close), (scope) =>
      Layer.buildWithScope(Layer.merge(a, forked(fuse)), scope)
    )
  )
  isNone("in a scope that it forks from its own", (fuse) =>
    Effect.gen(function* () {
      const scope = yield* Scope.fork(yield* Effect.scope)
      yield* Layer.buildWithScope(Layer.merge(a, forked(fuse)), scope)
    })
  )
  isNone(
    "in a scope that it makes, with the current map",
    (fuse) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        yield* Layer.buildWithMemoMap(Layer.merge(a, forked(fuse)), yield* Layer.CurrentMemoMap, scope)
        // The current map is there wherever a layer is built.
      }) as Effect.Effect<unknown>
  )
  isNone("in a scope that it forks from its own, one layer further in", (fuse) =>
    Layer.build(
      Layer.effectDiscard(
        Effect.gen(function* () {
          const scope = yield* Scope.fork(yield* Effect.scope)
          yield* Layer.buildWithScope(forked(fuse), scope)
          yield* Effect.forkIn(fuse, scope)
        })
      )
    )
  )
  isNone("for a while: Effect.provide, Effect.scoped, Layer.launch", (fuse) =>
    Effect.all(
      [
        Effect.provide(Effect.never, forked(fuse)),
        Effect.scoped(Effect.andThen(Layer.build(forked(fuse)), Effect.never)),
        Layer.launch(forked(fuse))
      ].map((run) => Effect.forkScoped(run))
    )
  )
  isNone("in a LayerMap", (fuse) =>
    Effect.gen(function* () {
      const map = yield* LayerMap.make((_key: string) => Layer.merge(a, forked(fuse)))
      yield* Effect.forkScoped(Effect.provide(Effect.never, map.get("key")))
    })
  )
  isNone("in a LayerMap that a layer built by hand asks", (fuse) =>
    Effect.gen(function* () {
      const map = yield* LayerMap.make((_key: string) => Layer.merge(a, forked(fuse)))
      yield* Layer.build(Layer.effectDiscard(Effect.forkScoped(Effect.provide(Effect.never, map.get("key")))))
    })
  )
})
