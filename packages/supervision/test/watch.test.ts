// What is the crash of a child, and what is not: shown on layers that know nothing of supervision.
import { Child, Process, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import {
  type Cause,
  Context,
  Deferred,
  Effect,
  Fiber,
  FiberMap,
  FiberSet,
  Layer,
  ManagedRuntime,
  Pool,
  PubSub,
  Queue,
  RcMap,
  Schedule,
  Scope,
  Stream
} from "effect"
import { pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

class A extends Context.Service<A, { readonly number: number }>()("test/A") {}
class B extends Context.Service<B, { readonly number: number }>()("test/B") {}

/** A switch that makes a fiber die. */
const makeFuse = () => {
  const blown = Deferred.makeUnsafe<never>()
  return { wait: Deferred.await(blown), blow: Deferred.die(blown, "blown") }
}

/** How often a child with this layer is started when the fuse blows: 2 is a crash, 1 is none. */
const startsWhenBlown = <E>(
  make: (fuse: Effect.Effect<never>) => Layer.Layer<never, E>,
  options?: Child.Options
): Effect.Effect<number, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const fuse = makeFuse()
    let starts = 0
    const layer = Layer.suspend(() => (++starts === 1 ? make(fuse.wait) : Layer.empty))
    yield* startApp("one_for_one", [Child.layer("a", layer, options)])
    yield* settle
    assert.strictEqual(starts, 1, "nothing has happened yet")
    yield* fuse.blow
    yield* settle
    return starts
  })

const isCrash = (promise: string, make: (fuse: Effect.Effect<never>) => Layer.Layer<never, unknown>) =>
  scenario(promise, () => Effect.map(startsWhenBlown(make), (starts) => assert.strictEqual(starts, 2)))

const isNone = (
  promise: string,
  make: (fuse: Effect.Effect<never>) => Layer.Layer<never, unknown>,
  options?: Child.Options
) => scenario(promise, () => Effect.map(startsWhenBlown(make, options), (starts) => assert.strictEqual(starts, 1)))

const forked = (effect: Effect.Effect<unknown, unknown>) => Layer.effectDiscard(Effect.forkScoped(effect))
const a = Layer.succeed(A, { number: 1 })
const b = Layer.effect(B, Effect.succeed({ number: 2 }))

describe("a fiber that fails is a crash when the layer forked it", () => {
  isCrash("into its scope", forked)
  isCrash("into its scope, as the layer of a service", (fuse) =>
    Layer.effect(A, Effect.as(Effect.forkScoped(fuse), { number: 1 }))
  )
  isCrash("beside others that live on", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        yield* Effect.forkScoped(Effect.never)
        yield* Effect.forkScoped(fuse)
        yield* Effect.forkScoped(Effect.never)
      })
    )
  )
  isCrash("after others had come and gone and its scope was empty again", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        yield* Fiber.join(yield* Effect.forkScoped(Effect.yieldNow))
        yield* Fiber.interrupt(yield* Effect.forkScoped(Effect.never))
        yield* Effect.forkScoped(fuse)
      })
    )
  )
  isCrash("with startImmediately", (fuse) => Layer.effectDiscard(Effect.forkScoped(fuse, { startImmediately: true })))
  isCrash("later, into the scope that it had captured", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const scope = yield* Effect.scope
        yield* Effect.forkDetach(Effect.andThen(Effect.yieldNow, Effect.forkIn(fuse, scope)))
      })
    )
  )
  isCrash("by Fiber.runIn", (fuse) =>
    Layer.effectDiscard(Effect.map(Effect.scope, (scope) => Fiber.runIn(Effect.runFork(fuse), scope)))
  )
  isCrash("by Process.link", (fuse) => Layer.effectDiscard(Process.link(fuse)) as Layer.Layer<never>)
  isCrash(
    "by Process.link with linkFibers: false",
    (fuse) => Layer.effectDiscard(Process.link(fuse)) as Layer.Layer<never>
  )

  for (const [what, how] of [
    ["a typed error", Effect.fail("typed")],
    ["a defect", Effect.die("defect")],
    ["an interruption together with a defect", Effect.onExit(Effect.interrupt, () => Effect.die("finalizer"))]
  ] as const) {
    scenario(`and ended with ${what}`, () =>
      Effect.gen(function* () {
        let starts = 0
        const layer = Layer.effectDiscard(Effect.suspend(() => (++starts === 1 ? Effect.forkScoped(how) : Effect.void)))
        yield* startApp("one_for_one", [Child.layer("a", layer)])
        yield* settle
        assert.strictEqual(starts, 2)
      })
    )
  }
})

describe("wherever in a composition the layer stands:", () => {
  const needsA = (fuse: Effect.Effect<never>) => Layer.effectDiscard(Effect.andThen(A, Effect.forkScoped(fuse)))
  isCrash("Layer.provide, outside", (fuse) => Layer.provide(needsA(fuse), a))
  isCrash("Layer.provide, inside", (fuse) =>
    Layer.provide(b, Layer.effect(A, Effect.as(Effect.forkScoped(fuse), { number: 1 })))
  )
  isCrash("Layer.provide of several", (fuse) => Layer.provide(needsA(fuse), [a, b]))
  isCrash("Layer.provide of several, one of those", (fuse) => Layer.provide(needsA(Effect.never), [a, forked(fuse)]))
  isCrash("Layer.provideMerge", (fuse) => Layer.provideMerge(needsA(fuse), a))
  isCrash("Layer.merge", (fuse) => Layer.merge(a, forked(fuse)))
  isCrash("Layer.mergeAll", (fuse) => Layer.mergeAll(a, b, forked(Effect.never), forked(fuse)))
  isCrash("deep below all of them", (fuse) =>
    Layer.mergeAll(
      b,
      Layer.provide(
        Layer.provideMerge(Layer.merge(b, a), Layer.mergeAll(a, Layer.merge(b, Layer.provide(needsA(fuse), a)))),
        a
      )
    )
  )
  isCrash("Layer.flatMap, the first", (fuse) => Layer.flatMap(Layer.merge(a, forked(fuse)), () => b))
  isCrash("Layer.flatMap, the second", (fuse) => Layer.flatMap(a, () => forked(fuse)))
  isCrash("Layer.unwrap, the effect", (fuse) => Layer.unwrap(Effect.as(Effect.forkScoped(fuse), b)))
  isCrash("Layer.unwrap, the layer", (fuse) => Layer.unwrap(Effect.succeed(forked(fuse))))
  isCrash("Layer.tap", (fuse) => Layer.tap(b, () => Effect.forkScoped(fuse)))
  isCrash("Layer.tap below a merge", (fuse) =>
    Layer.merge(
      a,
      Layer.tap(b, () => Effect.forkScoped(fuse))
    )
  )
  isCrash("Layer.suspend", (fuse) => Layer.suspend(() => Layer.suspend(() => forked(fuse))))
  isCrash("Layer.orDie", (fuse) => Layer.orDie(forked(fuse)))
  isCrash("Layer.catch, what it falls back to", (fuse) =>
    Layer.catch(Layer.effectDiscard(Effect.fail("no")), () => forked(fuse))
  )
  isCrash("Layer.catchCause, what it falls back to", (fuse) =>
    Layer.catchCause(Layer.effectDiscard(Effect.die("no")), () => forked(fuse))
  )
  isCrash("Layer.updateService", (fuse) =>
    Layer.provide(
      Layer.updateService(needsA(fuse), A, (it) => it),
      a
    )
  )
  isCrash("Layer.withSpan", (fuse) => Layer.withSpan(forked(fuse), "span"))
  isCrash("Layer.effectContext", (fuse) =>
    Layer.effectContext(Effect.as(Effect.forkScoped(fuse), Context.make(A, { number: 1 })))
  )
  isCrash("one layer value in two places, which is built once", (fuse) => {
    let built = 0
    const shared = Layer.effect(
      A,
      Effect.suspend(() => {
        assert.strictEqual(++built, 1)
        return Effect.as(Effect.forkScoped(fuse), { number: 1 })
      })
    )
    return Layer.merge(Layer.provide(needsA(Effect.never), shared), Layer.provide(needsA(Effect.never), shared))
  })
})

describe("what does not stand in a memoised layer", () => {
  const starts = (make: (count: () => void) => Layer.Layer<never>) =>
    Effect.gen(function* () {
      let starts = 0
      yield* startApp("one_for_one", [
        Child.layer(
          "a",
          make(() => starts++)
        )
      ])
      yield* settle
      return starts
    })
  const tapped = (count: () => void) =>
    Layer.tap(a, () =>
      Effect.andThen(Effect.sync(count), Effect.forkScoped(Effect.die("once more")))
    ) as Layer.Layer<never>
  const built = (count: () => void) =>
    Layer.fromBuild((_memoMap, scope) => {
      count()
      return Effect.as(Effect.forkIn(Effect.die("once more"), scope), Context.empty())
    })

  scenario("is seen as the child's own layer: Layer.tap of a plain value, Layer.fromBuild", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* starts(tapped), 4)
      assert.strictEqual(yield* starts(built), 4)
    })
  )

  scenario("known limit: is not seen below a combinator, because only memoised layers tell their scopes", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* starts((count) => Layer.merge(b, tapped(count)) as Layer.Layer<never>), 1)
      assert.strictEqual(yield* starts((count) => Layer.merge(b, built(count)) as Layer.Layer<never>), 1)
    })
  )

  scenario("known limit: is not seen in Layer.fresh, which is built beside the child's memo map", () =>
    Effect.gen(function* () {
      const fresh = (count: () => void) =>
        Layer.fresh(Layer.effectDiscard(Effect.andThen(Effect.sync(count), Effect.forkScoped(Effect.die("once more")))))
      assert.strictEqual(yield* starts(fresh), 1)
    })
  )

  scenario("known limit: a fiber that has failed by the time it is forked was never in the scope", () =>
    Effect.gen(function* () {
      const immediate = (count: () => void) =>
        Layer.effectDiscard(
          Effect.andThen(Effect.sync(count), Effect.forkScoped(Effect.die("at once"), { startImmediately: true }))
        )
      assert.strictEqual(yield* starts(immediate), 1)
      // Process.link sees it.
      const linked = (count: () => void) =>
        Layer.effectDiscard(
          Effect.andThen(Effect.sync(count), Process.link(Effect.die("at once")))
        ) as Layer.Layer<never>
      assert.strictEqual(yield* starts(linked), 4)
    })
  )
})

describe("everyday background work of a layer is a crash when it fails:", () => {
  isCrash("a Stream that is run in a forked fiber", (fuse) =>
    Layer.effectDiscard(Stream.fromEffect(fuse).pipe(Stream.merge(Stream.never), Stream.runDrain, Effect.forkScoped))
  )

  isCrash("a consumer of a queue", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const queue = yield* Queue.unbounded<Effect.Effect<never>>()
        yield* Stream.fromQueue(queue).pipe(
          Stream.runForEach((effect) => effect),
          Effect.forkScoped
        )
        yield* Queue.offer(queue, fuse)
      })
    )
  )

  scenario("a scheduled repeat, at the time it fails", () =>
    Effect.gen(function* () {
      let ticks = 0
      const tick = Effect.suspend(() => (++ticks % 5 === 0 ? Effect.die("every fifth") : Effect.void))
      const layer = Layer.effectDiscard(Effect.forkScoped(Effect.repeat(tick, Schedule.spaced("1 second"))))
      yield* startApp("one_for_one", [Child.layer("ticker", layer)])
      yield* pass(3999)
      assert.strictEqual((yield* Tree.get("App/ticker")).restarts, 0)
      yield* pass(1)
      assert.strictEqual((yield* Tree.get("App/ticker")).restarts, 1)
    })
  )

  scenario("a layer that others wrote is restarted whole, with what it provides", () =>
    Effect.gen(function* () {
      class Jobs extends Context.Service<Jobs, { readonly push: (n: number) => Effect.Effect<void> }>()("test/Jobs") {}
      const done: Array<number> = []
      const jobs = Layer.effect(
        Jobs,
        Effect.gen(function* () {
          const queue = yield* Queue.unbounded<number>()
          yield* Stream.fromQueue(queue).pipe(
            Stream.mapEffect((n) => (n === 3 ? Effect.fail("three") : Effect.sync(() => done.push(n)))),
            Stream.runDrain,
            Effect.forkScoped
          )
          return { push: (n) => Effect.asVoid(Queue.offer(queue, n)) }
        })
      )
      const app = yield* start(
        Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("jobs", jobs)] })
      )
      const { push } = Context.get(app.context, Jobs)
      for (const n of [1, 2, 3, 4, 5]) {
        yield* push(n)
        yield* settle
      }
      assert.deepStrictEqual(done, [1, 2, 4, 5])
    })
  )
})

describe("no crash is", () => {
  isNone("a fiber of a FiberSet", (fuse) =>
    Layer.effectDiscard(Effect.flatMap(FiberSet.make(), (set) => FiberSet.run(set, fuse)))
  )
  isNone("a fiber of a FiberMap", (fuse) =>
    Layer.effectDiscard(Effect.flatMap(FiberMap.make<string>(), (map) => FiberMap.run(map, "key", fuse)))
  )
  isNone("a fiber in a scope that the layer opens and closes", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        yield* Effect.forkDetach(Effect.scoped(Effect.andThen(Effect.forkScoped(fuse), Effect.sleep("1 hour"))))
      })
    )
  )
  isNone("a fiber in a scope that the layer makes and keeps", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const scope = yield* Effect.acquireRelease(Scope.make(), Scope.close)
        yield* Effect.forkIn(fuse, scope)
      })
    )
  )
  isNone("a fiber in a scope that the layer forks from its own", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const scope = yield* Scope.fork(yield* Effect.scope)
        yield* Effect.forkIn(fuse, scope)
      })
    )
  )
  isNone("a fiber of a layer that is provided at run time", (fuse) =>
    Layer.effectDiscard(Effect.forkScoped(Effect.provide(Effect.never, forked(fuse))))
  )
  isNone("a fiber of an application that the layer runs itself", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const runtime = yield* Effect.acquireRelease(
          Effect.sync(() => ManagedRuntime.make(forked(fuse))),
          (it) => it.disposeEffect
        )
        runtime.runFork(Effect.never)
      })
    )
  )
  isNone("a detached fiber", (fuse) => Layer.effectDiscard(Effect.forkDetach(fuse)))
  isNone("a child fiber that somebody waits for", (fuse) =>
    forked(
      Effect.gen(function* () {
        yield* Fiber.await(yield* Effect.forkChild(fuse))
        return yield* Effect.never
      })
    )
  )
  isNone("a fiber whose failure is handled", (fuse) => forked(Effect.catchCause(fuse, () => Effect.void)))
  isNone("a fiber that is interrupted", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const fiber = yield* Effect.forkScoped(Effect.never)
        yield* Effect.forkDetach(Effect.onExit(fuse, () => Fiber.interrupt(fiber)))
      })
    )
  )
  isNone(
    "a fiber in Process.unlinked",
    (fuse) => Layer.effectDiscard(Process.unlinked(Effect.forkScoped(fuse))) as Layer.Layer<never>
  )
  isNone("any fiber with linkFibers: false", forked, { linkFibers: false })
  isNone("a failing build in an RcMap, or its users", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const map = yield* RcMap.make({ lookup: (_key: string) => fuse, idleTimeToLive: "1 second" })
        yield* Effect.forkDetach(Effect.scoped(RcMap.get(map, "key")))
      })
    )
  )
  isNone("a failing resource in a Pool", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const pool = yield* Pool.make({ acquire: fuse, size: 2 })
        yield* Effect.forkDetach(Effect.scoped(Pool.get(pool)))
      })
    )
  )
  isNone("a subscriber of a PubSub that dies elsewhere", (fuse) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const pubsub = yield* PubSub.unbounded<number>()
        yield* Effect.forkDetach(Effect.scoped(Effect.andThen(PubSub.subscribe(pubsub), fuse)))
      })
    )
  )

  const streamEnds = (
    promise: string,
    ending: (pulls: Stream.Stream<number>) => Effect.Effect<unknown, unknown, Scope.Scope>
  ) =>
    scenario(`the end of ${promise}`, () =>
      Effect.gen(function* () {
        let starts = 0
        const numbers = Stream.concat(Stream.make(1, 2), Stream.fromEffect(Effect.sleep("1 second").pipe(Effect.as(3))))
        const layer = Layer.effectDiscard(
          Effect.suspend(() => {
            starts++
            return ending(numbers)
          })
        )
        yield* startApp("one_for_one", [Child.layer("a", layer)])
        yield* pass("10 seconds")
        assert.strictEqual(starts, 1)
      })
    )

  streamEnds("a stream that is pulled in the layer's scope", (numbers) =>
    Effect.gen(function* () {
      for (const stream of [
        numbers,
        Stream.zipLatest(numbers, numbers),
        Stream.merge(numbers, numbers),
        Stream.mergeAll([numbers, numbers], { concurrency: 2 }),
        Stream.buffer(numbers, { capacity: 1 }),
        Stream.debounce(numbers, 10),
        Stream.groupedWithin(numbers, 2, 10),
        Stream.interleave(numbers, numbers),
        Stream.mapEffect(numbers, (n) => Effect.delay(Effect.succeed(n), 5), { concurrency: 4 }),
        Stream.switchMap(numbers, (n) => Stream.make(n)),
        Stream.haltWhen(numbers, Effect.sleep(500)),
        Stream.throttle(numbers, { cost: () => 1, units: 1, duration: 10 })
      ] as ReadonlyArray<Stream.Stream<unknown>>) {
        const pull = yield* Stream.toPull(stream)
        yield* Effect.forkDetach(Effect.forever(pull))
      }
    })
  )
  streamEnds("a stream that is shared", (numbers) =>
    Effect.gen(function* () {
      const shared = yield* Stream.share(numbers, { capacity: 16 })
      yield* Effect.forkDetach(Stream.runDrain(shared))
    })
  )
  streamEnds("a stream that is broadcast", (numbers) =>
    Effect.gen(function* () {
      const broadcast = yield* Stream.broadcast(numbers, { capacity: 16 })
      yield* Effect.forkDetach(Stream.runDrain(broadcast))
    })
  )
  streamEnds("a stream that feeds a queue", (numbers) => Stream.toQueue(numbers, { capacity: 1 }))
  streamEnds("a stream that feeds a PubSub", (numbers) => Stream.toPubSub(numbers, { capacity: 1 }))
  streamEnds("a queue whose consumer waits for more", () =>
    Effect.gen(function* () {
      const queue = yield* Queue.unbounded<number, Cause.Done>()
      yield* Effect.forkScoped(Effect.forever(Queue.take(queue)))
      yield* Queue.end(queue)
    })
  )
})
