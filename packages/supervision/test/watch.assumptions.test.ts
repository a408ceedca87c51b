// What the seeing of crashes stands on in Effect's public interfaces. When one of these fails after an update of Effect,
// `src/internal/watch.ts` has to follow, whether or not another test fails too.
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"

const open = (scope: Scope.Scope): Scope.State.Open => {
  assert.strictEqual(scope.state._tag, "Open")
  return scope.state as Scope.State.Open
}

describe("a scope", () => {
  it.effect("is empty, then holds one finalizer by its key, then a Map of them, and is empty again", () =>
    Effect.gen(function* () {
      const scope = Scope.makeUnsafe()
      assert.strictEqual(scope.state._tag, "Empty")
      const one = Scope.forkUnsafe(scope)
      assert.strictEqual(open(scope).finalizerKey, one)
      assert.isFunction(open(scope).finalizer)
      assert.isUndefined(open(scope).finalizers)
      const two = Scope.forkUnsafe(scope)
      assert.isUndefined(open(scope).finalizer)
      assert.instanceOf(open(scope).finalizers, Map)
      assert.deepStrictEqual([...(open(scope).finalizers?.keys() ?? [])], [one, two])
      yield* Scope.close(one, Exit.void)
      yield* Scope.close(two, Exit.void)
      assert.strictEqual(scope.state._tag, "Empty", "an emptied Map is thrown away")
    })
  )

  it.effect("uses a Map that it is given, asks it by `set`, and runs what it holds in reverse order", () =>
    Effect.gen(function* () {
      const keys: Array<object> = []
      class Recording extends Map<object, (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<unknown>> {
        override set(key: object, value: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<unknown>): this {
          keys.push(key)
          return super.set(key, value)
        }
      }
      const log: Array<number> = []
      const scope = Scope.makeUnsafe()
      const finalizers = new Recording()
      finalizers.set({}, () => Effect.void)
      scope.state = { _tag: "Open", finalizerKey: undefined, finalizer: undefined, finalizers }
      yield* Scope.addFinalizer(
        scope,
        Effect.sync(() => log.push(1))
      )
      const fork = Scope.forkUnsafe(scope)
      yield* Scope.addFinalizer(
        fork,
        Effect.sync(() => log.push(2))
      )
      const fiber = yield* Effect.forkIn(
        Effect.onExit(Effect.never, () => Effect.sync(() => log.push(3))),
        scope,
        { startImmediately: true }
      )
      assert.strictEqual(keys.length, 4)
      assert.strictEqual(keys[2], fork)
      assert.strictEqual(keys[3], fiber)
      assert.isTrue(Fiber.isFiber(fiber))
      assert.isFalse(Fiber.isFiber(fork))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log, [3, 2, 1])
    })
  )

  it.effect("knows the scope that it was forked from, and is told apart by its state and strategy", () =>
    Effect.sync(() => {
      const scope = Scope.makeUnsafe()
      const fork = Scope.forkUnsafe(scope)
      assert.strictEqual(fork.parent, scope)
      assert.isUndefined(scope.parent)
      assert.isTrue("state" in fork && "strategy" in fork)
      assert.isFalse("strategy" in Effect.runFork(Effect.void))
    })
  )

  it.effect("a fiber is registered in it while it runs, and its observers are told of its end", () =>
    Effect.gen(function* () {
      const scope = Scope.makeUnsafe()
      Scope.forkUnsafe(scope)
      Scope.forkUnsafe(scope)
      const gate = yield* Deferred.make<never>()
      const fiber = yield* Effect.forkIn(Deferred.await(gate), scope)
      assert.isTrue(open(scope).finalizers?.has(fiber))
      let told: Exit.Exit<unknown, unknown> | undefined
      fiber.addObserver((exit) => (told = exit))
      yield* Deferred.die(gate, "end")
      yield* Effect.yieldNow
      assert.isTrue(told !== undefined && Exit.isFailure(told))
      assert.isFalse(open(scope).finalizers?.has(fiber))
    })
  )
})

describe("a memo map", () => {
  class Service extends Context.Service<Service, number>()("test/Service") {}

  it.effect("is asked by every memoised layer, which builds in a parentless scope that it is handed", () =>
    Effect.gen(function* () {
      const inner = Layer.makeMemoMapUnsafe()
      const asked: Array<{ readonly scope: Scope.Scope; readonly own: Scope.Scope }> = []
      const outer: Layer.MemoMap = Object.assign(Object.create(inner) as Layer.MemoMap, {
        getOrElseMemoize: <ROut, E, RIn>(
          layer: Layer.Layer<ROut, E, RIn>,
          scope: Scope.Scope,
          build: (memoMap: Layer.MemoMap, scope: Scope.Scope) => Effect.Effect<Context.Context<ROut>, E, RIn>
        ) =>
          inner.getOrElseMemoize(layer, scope, (_memoMap, own) => {
            asked.push({ scope, own })
            return build(outer, own)
          })
      })
      const scopes: Array<Scope.Scope> = []
      const leaf = Layer.effect(
        Service,
        Effect.map(Effect.scope, (scope) => scopes.push(scope))
      )
      const root = yield* Effect.scope
      yield* Layer.buildWithMemoMap(Layer.merge(leaf, Layer.provide(Layer.effectDiscard(Service), leaf)), outer, root)
      // The merge, the leaf once, the provide and what it provides for.
      assert.strictEqual(asked.length, 4)
      assert.strictEqual(scopes.length, 1)
      assert.isTrue(
        asked.some(({ own }) => own === scopes[0]),
        "the layer's own code sees the scope it was handed"
      )
      for (const { own, scope } of asked) {
        assert.isUndefined(own.parent)
        assert.strictEqual(own.state._tag === "Closed", false)
        let top = scope
        while (top.parent !== undefined) top = top.parent
        assert.isTrue(
          top === root || asked.some((other) => other.own === top),
          "every scope leads to one that is known"
        )
      }
    })
  )

  it.effect("is forked by a build by hand, with the fork as the current map when the build forks the scope", () =>
    Effect.gen(function* () {
      const forks: Array<Layer.MemoMap | undefined> = []
      class Recording extends Map<object, () => Effect.Effect<void>> {
        override set(key: object, value: () => Effect.Effect<void>): this {
          const fiber = Fiber.getCurrent()
          if ("strategy" in key) forks.push(fiber && Context.getOrUndefined(fiber.context, Layer.CurrentMemoMap))
          return super.set(key, value)
        }
      }
      const scope = Scope.makeUnsafe()
      const finalizers = new Recording()
      finalizers.set({}, () => Effect.void)
      scope.state = { _tag: "Open", finalizerKey: undefined, finalizer: undefined, finalizers }
      const current = Layer.makeMemoMapUnsafe()
      const asked: Array<Layer.Layer<never>> = []
      Object.assign(current, { get: (layer: Layer.Layer<never>) => void asked.push(layer) })
      const layer = Layer.effectDiscard(Effect.void)
      yield* Scope.provide(Layer.build(layer), scope).pipe(Effect.provideService(Layer.CurrentMemoMap, current))
      assert.strictEqual(forks.length, 1)
      const [fork] = forks
      assert.isDefined(fork)
      assert.notStrictEqual(fork, current)
      assert.deepStrictEqual(asked, [layer], "a fork asks the map that it was forked from")
    })
  )

  it.effect("that is forked finds what its parent holds, and keeps what it builds to itself", () =>
    Effect.gen(function* () {
      let built = 0
      const layer = Layer.sync(Service, () => ++built)
      const scope = yield* Effect.scope
      const parent = Layer.makeMemoMapUnsafe()
      const one = Layer.forkMemoMapUnsafe(parent)
      const two = Layer.forkMemoMapUnsafe(parent)
      yield* Layer.buildWithMemoMap(layer, one, scope)
      yield* Layer.buildWithMemoMap(layer, two, scope)
      assert.strictEqual(built, 2)
      yield* Layer.buildWithMemoMap(layer, parent, scope)
      yield* Layer.buildWithMemoMap(layer, Layer.forkMemoMapUnsafe(parent), scope)
      assert.strictEqual(built, 3)
    })
  )
})
