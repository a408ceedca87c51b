import { Child, Process, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

const strangersInterruption = Effect.withFiber((fiber) =>
  Effect.andThen(Effect.forkDetach(Fiber.interrupt(fiber)), Effect.never)
)

const ends = {
  "a normal exit": Effect.succeed("done"),
  "an interruption by itself": Effect.interrupt,
  "a failure": Effect.fail("no"),
  "a defect": Effect.die("boom"),
  "an interruption from outside": strangersInterruption,
  "an interruption together with a failure": Effect.failCause(Cause.combine(Cause.interrupt(1), Cause.fail("no")))
}

const isRestarted = (restart: Child.Restart, end: keyof typeof ends): boolean =>
  restart === "permanent" || (restart === "transient" && end !== "a normal exit" && end !== "an interruption by itself")

describe("Child.effect", () => {
  for (const restart of ["permanent", "transient", "temporary"] as const) {
    for (const [end, how] of Object.entries(ends)) {
      const again = isRestarted(restart, end as keyof typeof ends)
      scenario(`${restart}: ${end} is ${again ? "" : "not "}followed by a restart`, () =>
        Effect.gen(function* () {
          let starts = 0
          const go = yield* Deferred.make<void>()
          const once = Effect.suspend(() => (++starts === 1 ? Effect.andThen(Deferred.await(go), how) : Effect.never))
          yield* startApp("one_for_one", [Child.effect("a", once, { restart })])
          yield* settle
          assert.strictEqual(starts, 1)
          yield* Deferred.succeed(go, undefined)
          yield* settle
          assert.strictEqual(starts, again ? 2 : 1)
          const app = yield* Tree.get("App")
          assert.strictEqual(app.status, "running")
          assert.deepStrictEqual(
            app.children.map(({ restarts, status }) => [status, restarts]),
            again ? [["running", 1]] : restart === "temporary" ? [] : [["finished", 0]]
          )
        })
      )
    }
  }

  scenario("an interruption by nobody in particular is one from outside", () =>
    Effect.gen(function* () {
      let starts = 0
      let own: Fiber.Fiber<unknown, unknown> | undefined
      const effect = Effect.withFiber((fiber) => {
        starts++
        own = fiber
        return Effect.never
      })
      yield* startApp("one_for_one", [Child.effect("a", effect, { restart: "transient" })])
      yield* settle
      own?.interruptUnsafe()
      yield* settle
      assert.strictEqual(starts, 2)
    })
  )

  scenario("with linkFibers: false has its life linked all the same, and nothing else", () =>
    Effect.gen(function* () {
      let starts = 0
      const go = yield* Deferred.make<void>()
      const effect = Effect.gen(function* () {
        if (++starts > 1) return yield* Effect.never
        yield* Effect.forkScoped(Effect.die("harmless"))
        yield* Deferred.await(go)
        return yield* Effect.fail("its own failure")
      })
      yield* startApp("one_for_one", [Child.effect("a", effect, { restart: "transient", linkFibers: false })])
      yield* settle
      assert.strictEqual(starts, 1)
      yield* Deferred.succeed(go, undefined)
      yield* settle
      assert.strictEqual(starts, 2)
    })
  )

  scenario("is up at once: the next child does not wait for it", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      yield* startApp("one_for_one", [Child.effect("never", Effect.never), a.child()])
      assert.strictEqual(journal.take(), "+a")
    })
  )

  scenario("may fail before anything else happens, which is a crash and not a failed start", () =>
    Effect.gen(function* () {
      let starts = 0
      const flaky = Effect.suspend(() => (++starts < 3 ? Effect.fail("early") : Effect.never))
      yield* startApp("one_for_one", [Child.effect("a", flaky)])
      yield* settle
      assert.strictEqual(starts, 3)
      assert.strictEqual((yield* Tree.get("App/a")).restarts, 2)
    })
  )

  scenario("has a scope of its own, which ends with it: finalizers run before the restart", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const crash = yield* Deferred.make<never>()
      const effect = Effect.gen(function* () {
        log.push("start")
        yield* Effect.acquireRelease(Effect.void, () => Effect.sync(() => log.push("release")))
        return yield* log.length > 1 ? Effect.never : Deferred.await(crash)
      })
      const app = yield* startApp("one_for_one", [Child.effect("a", effect)])
      yield* settle
      yield* Deferred.fail(crash, "now" as never)
      yield* settle
      assert.deepStrictEqual(log, ["start", "release", "start"])
      yield* app.stop
      assert.deepStrictEqual(log, ["start", "release", "start", "release"])
    })
  )

  scenario("that forks a fiber into its scope crashes with that fiber", () =>
    Effect.gen(function* () {
      let starts = 0
      const effect = Effect.gen(function* () {
        if (++starts === 1) yield* Effect.forkScoped(Effect.die("in the back"))
        return yield* Effect.never
      })
      yield* startApp("one_for_one", [Child.effect("a", effect)])
      yield* settle
      assert.strictEqual(starts, 2)
    })
  )

  scenario("may open scopes of its own below it, in which fibers fail without harm", () =>
    Effect.gen(function* () {
      let starts = 0
      const effect = Effect.gen(function* () {
        starts++
        yield* Effect.scoped(Effect.andThen(Effect.forkScoped(Effect.die("private")), Effect.yieldNow))
        yield* Process.unlinked(Effect.forkScoped(Effect.die("not linked")))
        yield* Effect.forkIn(Effect.die("in a fork"), yield* Scope.fork(yield* Effect.scope))
        return yield* Effect.never
      })
      yield* startApp("one_for_one", [Child.effect("a", effect)])
      yield* settle
      assert.strictEqual(starts, 1)
    })
  )

  scenario("sees the services of the children before it", () =>
    Effect.gen(function* () {
      class Number extends Context.Service<Number, { readonly get: Effect.Effect<number> }>()("test/Number") {}
      const seen: Array<number> = []
      yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [
            Child.layer("number", Layer.succeed(Number, { get: Effect.succeed(7) })),
            Child.effect(
              "reader",
              Effect.gen(function* () {
                const { get } = yield* Number
                seen.push(yield* get)
                return yield* Effect.never
              })
            )
          ]
        })
      )
      yield* settle
      assert.deepStrictEqual(seen, [7])
    })
  )
})

describe("a layer child", () => {
  scenario("that is transient or temporary ends normally by Process.exit only", () =>
    Effect.gen(function* () {
      const layer = Layer.effectDiscard(
        Effect.gen(function* () {
          const { exit } = yield* Process.Process
          yield* Effect.forkScoped(Effect.delay(exit(Exit.void), "1 second"))
          yield* Effect.forkScoped(Effect.void)
        })
      )
      const { a, journal } = cast("a")
      yield* startApp("one_for_one", [
        Child.layer("one", Layer.merge(layer, a.layer), { restart: "transient" }),
        Child.layer("two", layer, { restart: "temporary" }),
        Child.layer("three", layer)
      ])
      yield* settle
      assert.deepStrictEqual(
        (yield* Tree.get("App")).children.map(({ status }) => status),
        ["running", "running", "running"]
      )
      journal.take()
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "-a")
      assert.deepStrictEqual(
        (yield* Tree.get("App")).children.map(({ id, incarnation, status }) => `${id} ${status} ${incarnation}`),
        ["one finished 1", "three running 2"]
      )
    })
  )

  scenario("is not ended by a fiber of its scope that ends well or is interrupted", () =>
    Effect.gen(function* () {
      let starts = 0
      const layer = Layer.effectDiscard(
        Effect.gen(function* () {
          starts++
          yield* Effect.forkScoped(Effect.void)
          yield* Effect.forkScoped(Effect.interrupt)
          const other = yield* Effect.forkScoped(Effect.never)
          yield* Fiber.interrupt(other)
        })
      )
      yield* startApp("one_for_one", [Child.layer("a", layer)])
      yield* settle
      assert.strictEqual(starts, 1)
      assert.strictEqual((yield* Tree.get("App/a")).status, "running")
    })
  )
})

describe("the services of a child that has finished", () => {
  class Answer extends Context.Service<
    Answer,
    { readonly get: Effect.Effect<number>; readonly stuck: Effect.Effect<number> }
  >()("test/Answer") {}

  for (const restart of ["transient", "temporary"] as const) {
    for (const how of ["normal", "crash"] as const) {
      if (restart === "transient" && how === "crash") continue
      scenario(`answer with ChildUnavailable when it was ${restart} (${how})`, () =>
        Effect.gen(function* () {
          const end = yield* Deferred.make<Exit.Exit<void>>()
          const layer = Layer.effect(
            Answer,
            Effect.gen(function* () {
              const { exit } = yield* Process.Process
              yield* Effect.forkScoped(Effect.flatMap(Deferred.await(end), exit))
              return { get: Effect.succeed(42), stuck: Effect.never }
            })
          )
          const app = yield* start(
            Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("answer", layer, { restart })] })
          )
          const { get, stuck } = Context.get(app.context, Answer)
          const calling = yield* Effect.forkScoped(stuck, { startImmediately: true })
          assert.strictEqual(yield* get, 42)
          yield* Deferred.succeed(end, how === "normal" ? Exit.void : Exit.die("over"))
          yield* settle
          const unavailable = (exit: Exit.Exit<number> | undefined) => {
            const error = exit !== undefined && Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit
            assert.instanceOf(error, Child.ChildUnavailable)
            assert.strictEqual(error.path, "App/answer")
            return error
          }
          const later = unavailable(yield* Effect.exit(get))
          assert.strictEqual(later.reason, "finished")
          assert.strictEqual(later.message, "App/answer is not available: it has finished and will not be restarted")
          const during = unavailable(calling.pollUnsafe())
          assert.strictEqual(during.reason, how === "normal" ? "finished" : "crashed")
          if (how === "crash") assert.strictEqual(Cause.squash(later.cause as Cause.Cause<unknown>), "over")
        })
      )
    }
  }

  scenario("come back with it when its group revives it", () =>
    Effect.gen(function* () {
      const end = yield* Deferred.make<void>()
      let starts = 0
      const layer = Layer.effect(
        Answer,
        Effect.gen(function* () {
          const n = ++starts
          const { exit } = yield* Process.Process
          if (n === 1) yield* Effect.forkScoped(Effect.andThen(Deferred.await(end), exit(Exit.void)))
          return { get: Effect.succeed(n), stuck: Effect.never }
        })
      )
      const { a } = cast("a")
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_all",
          children: [a.child(), Child.layer("answer", layer, { restart: "transient" })]
        })
      )
      const { get } = Context.get(app.context, Answer)
      yield* Deferred.succeed(end, undefined)
      yield* settle
      assert.isTrue(Exit.isFailure(yield* Effect.exit(get)))
      yield* a.crash()
      yield* settle
      assert.strictEqual(yield* get, 2)
    })
  )
})
