// What belongs together stays together: calls inside calls, streams, and many callers at once.
import { Child, Supervisor } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Latch, Layer, Stream } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { Box, fork, make, unavailable } from "./fixtures/Box.ts"
import { rig } from "./fixtures/Rig.ts"
import { outcome, pass, scenario, settle, start } from "./fixtures/Scenario.ts"

describe("a call inside a call of the same handle", () => {
  scenario("stays on the instance of the outer call, and fails when that is gone", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make, { shutdown: "1 second" })
      const gate = yield* Latch.make()
      const seen: Array<unknown> = []
      const call = yield* fork(
        service.inside(
          Effect.gen(function* () {
            seen.push(yield* service.number)
            yield* Effect.uninterruptible(gate.await)
            for (const late of [service.number, service.inside(service.number)]) {
              const exit = yield* Effect.exit(Effect.uninterruptible(late))
              seen.push(Exit.isSuccess(exit) ? exit.value : unavailable(exit).reason)
            }
            const stream = yield* Effect.exit(Effect.uninterruptible(Stream.runHead(service.ticks)))
            seen.push(Exit.isSuccess(stream) ? stream.value : unavailable(stream).reason)
          }).pipe(Effect.uninterruptible)
        )
      )
      yield* crash
      yield* gate.open
      yield* settle
      assert.deepStrictEqual(seen, [1, "crashed", "crashed", "crashed"])
      assert.notStrictEqual(outcome(call), "running")
      assert.strictEqual(yield* service.number, 2)
    })
  )

  scenario("also from a fiber that the call forked", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make)
      const gate = yield* Latch.make()
      const seen: Array<unknown> = []
      const call = yield* fork(
        service.inside(
          Effect.all(
            [
              Effect.andThen(gate.await, Effect.exit(service.number)).pipe(
                Effect.tap((exit) => Effect.sync(() => seen.push(Exit.isSuccess(exit) ? exit.value : "failed"))),
                Effect.uninterruptible
              ),
              Effect.never
            ],
            { concurrency: 2 }
          )
        )
      )
      yield* crash
      yield* gate.open
      yield* settle
      assert.deepStrictEqual(seen, ["failed"])
      assert.notStrictEqual(outcome(call), "running")
    })
  )

  scenario("a fiber that outlives the call that forked it is free again", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make)
      const gate = yield* Latch.make()
      const forking = Effect.forkDetach(Effect.andThen(gate.await, service.number), { startImmediately: true })
      const daemons = [yield* service.inside(forking), yield* service.inside(Effect.andThen(Effect.yieldNow, forking))]
      yield* crash
      yield* gate.open
      yield* settle
      assert.deepStrictEqual(daemons.map(outcome), [Exit.succeed(2), Exit.succeed(2)])
    })
  )

  scenario("a chain of fibers that each fork the next inside a call does not grow what they carry", () =>
    Effect.gen(function* () {
      const { service } = yield* rig(Box, make)
      const sizes: Array<number> = []
      const step = (n: number): Effect.Effect<void> =>
        service.inside(
          Effect.withFiber((fiber) => {
            let depth = 0
            for (const value of fiber.context.mapUnsafe.values()) {
              for (let at: unknown = value; typeof at === "object" && at !== null && "outer" in at; at = at.outer)
                depth++
            }
            sizes.push(depth)
            return n === 0
              ? Effect.void
              : Effect.asVoid(Effect.forkDetach(Effect.andThen(Effect.yieldNow, step(n - 1))))
          })
        )
      yield* step(20)
      yield* settle
      assert.strictEqual(sizes.length, 21)
      assert.strictEqual(Math.max(...sizes), 1)
    })
  )

  scenario("binds to its own child only: other children are reached as they are now", () =>
    Effect.gen(function* () {
      class Other extends Context.Service<Other, Box["Service"]>()("test/Other") {}
      const { a, b } = cast("a", "b")
      let boxes = 0
      let others = 0
      const box = Layer.effect(
        Box,
        Effect.suspend(() => make(++boxes))
      ).pipe(Layer.provideMerge(a.layer))
      const other = Layer.effect(
        Other,
        Effect.suspend(() => make(++others))
      ).pipe(Layer.provideMerge(b.layer))
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [Child.layer("a", box), Child.layer("b", other)]
        })
      )
      const one = Context.get(app.context, Box)
      const two = Context.get(app.context, Other)
      const seen = yield* one.inside(
        Effect.gen(function* () {
          const before = [yield* one.number, yield* two.number]
          yield* b.crash()
          yield* settle
          return [...before, yield* one.number, yield* two.number]
        })
      )
      assert.deepStrictEqual(seen, [1, 1, 1, 2])
      // Crossed: a call of one inside a call of two inside a call of one.
      assert.strictEqual(yield* one.inside(two.inside(one.inside(two.number))), 2)
    })
  )

  scenario("two different services of one child are one child", () =>
    Effect.gen(function* () {
      class Second extends Context.Service<Second, { readonly number: Effect.Effect<number> }>()("test/Second") {}
      const { a } = cast("a")
      let boxes = 0
      const both = Layer.effectContext(
        Effect.gen(function* () {
          const n = ++boxes
          return Context.make(Box, yield* make(n)).pipe(Context.add(Second, { number: Effect.sync(() => n) }))
        })
      ).pipe(Layer.provideMerge(a.layer))
      const app = yield* start(Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("a", both)] }))
      const box = Context.get(app.context, Box)
      const second = Context.get(app.context, Second)
      const seen: Array<unknown> = []
      yield* fork(
        box.inside(
          Effect.gen(function* () {
            seen.push(yield* second.number)
            yield* a.crash()
            yield* settle
            const exit = yield* Effect.exit(second.number)
            seen.push(Exit.isSuccess(exit) ? exit.value : "failed")
          }).pipe(Effect.uninterruptible)
        )
      )
      yield* settle
      yield* settle
      assert.deepStrictEqual(seen, [1, "failed"])
      assert.strictEqual(yield* second.number, 2)
    })
  )
})

describe("streams", () => {
  scenario("give what the instance emitted, and then end with a defect when it dies", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make)
      const seen: Array<number> = []
      const run = yield* fork(Stream.runForEach(service.ticks, (n) => Effect.sync(() => seen.push(n))))
      yield* settle
      yield* crash
      assert.deepStrictEqual(seen, [1])
      assert.strictEqual(unavailable(outcome(run)).reason, "crashed")
    })
  )

  scenario("wait for an instance when there is none yet, and can be retried by hand", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make)
      const seen: Array<number> = []
      yield* fork(
        Stream.runForEach(service.ticks, (n) => Effect.sync(() => seen.push(n))).pipe(
          Effect.catchDefect(() => Effect.void),
          Effect.forever
        )
      )
      for (let n = 0; n < 3; n++) {
        actor.startTakes = "1 second"
        yield* crash
        yield* pass("1 second")
      }
      assert.deepStrictEqual(seen, [1, 2, 3, 4])
    })
  )
})

describe("many callers", () => {
  scenario("100 fibers that call all the time during 50 crashes: every call ends, and on one instance", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make, { shutdown: "1 second" })
      const stop = yield* Deferred.make<void>()
      let calls = 0
      let lost = 0
      const kinds = [
        Effect.map(service.number, (n) => [n, n]),
        service.inside(Effect.all([service.number, Effect.andThen(Effect.yieldNow, service.number)])),
        Effect.uninterruptible(service.inside(Effect.all([service.number, service.number]))),
        service.inside(
          Effect.andThen(
            Effect.sleep(3),
            Effect.map(service.number, (n) => [n, n])
          )
        ),
        Effect.map(Stream.runHead(service.ticks), () => [0, 0]),
        Effect.map(Effect.timeoutOption(service.hang, 5), () => [0, 0])
      ]
      const caller = (n: number) =>
        Effect.gen(function* () {
          while (!(yield* Deferred.isDone(stop))) {
            const exit = yield* Effect.exit(kinds[n % kinds.length]!)
            calls++
            if (Exit.isSuccess(exit)) assert.strictEqual(exit.value[0], exit.value[1])
            else {
              lost++
              unavailable(exit)
            }
            yield* Effect.sleep(1 + (n % 3))
          }
        })
      const callers = yield* Effect.forEach(
        Array.from({ length: 100 }, (_, n) => n),
        (n) => fork(caller(n))
      )
      for (let n = 0; n < 50; n++) {
        actor.startTakes = n % 4
        actor.stopTakes = n % 3
        yield* crash
        yield* pass(1 + (n % 7))
      }
      yield* Deferred.succeed(stop, undefined)
      yield* pass(100)
      for (const one of callers) {
        const exit = outcome(one)
        assert.notStrictEqual(exit, "running", "a caller hangs")
        if (exit !== "running" && Exit.isFailure(exit)) assert.fail(Cause.pretty(exit.cause))
      }
      assert.isAbove(calls, 1000)
      assert.isAbove(lost, 100)
    })
  )
})
