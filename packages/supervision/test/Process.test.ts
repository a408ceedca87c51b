import { Child, Process, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { outcome, pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

/** A layer that hands its process to the test each time it is started. */
const reporting = (seen: Array<Process.Process["Service"]>) =>
  Layer.effectDiscard(Effect.map(Process.Process, (process) => seen.push(process))) as Layer.Layer<never>

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(effect, { startImmediately: true })

describe("a process knows", () => {
  scenario("its path, its name and which instance of the child it is", () =>
    Effect.gen(function* () {
      const seen: Array<Process.Process["Service"]> = []
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        children: [
          Child.layer("layer", reporting(seen)),
          Child.effect(
            "effect",
            Effect.flatMap(Process.Process, (process) => {
              seen.push(process)
              return Effect.never
            })
          )
        ]
      })
      yield* startApp("one_for_one", [Child.layer("inner", inner)])
      yield* settle
      yield* Tree.kill("App/inner/layer")
      yield* settle
      assert.deepStrictEqual(
        seen.map(({ incarnation, name, path }) => `${path} ${name} ${incarnation}`),
        ["App/inner/layer layer 1", "App/inner/effect effect 1", "App/inner/layer layer 2"]
      )
    })
  )

  scenario("nothing of it is there outside of a supervisor", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(start(reporting([])))
      assert.isTrue(Exit.isFailure(exit))
    })
  )
})

describe("Process.link", () => {
  scenario("runs an effect until the process ends", () =>
    Effect.gen(function* () {
      const seen: Array<Process.Process["Service"]> = []
      const app = yield* startApp("one_for_one", [Child.layer("a", reporting(seen))])
      const log: Array<string> = []
      const fiber = yield* seen[0]!.link(Effect.onExit(Effect.never, () => Effect.sync(() => log.push("ended"))))
      yield* settle
      assert.strictEqual(outcome(fiber), "running")
      yield* app.stop
      assert.deepStrictEqual(log, ["ended"])
      const late = yield* seen[0]!.link(Effect.sync(() => log.push("too late")))
      yield* settle
      assert.deepStrictEqual(log, ["ended"])
      assert.notStrictEqual(outcome(late), "running")
    })
  )

  scenario("makes the effect's failure the process's crash, and gives the fiber for all else", () =>
    Effect.gen(function* () {
      const seen: Array<Process.Process["Service"]> = []
      yield* startApp("one_for_one", [Child.layer("a", reporting(seen), { linkFibers: false })])
      assert.strictEqual(yield* Fiber.join(yield* seen[0]!.link(Effect.succeed(42))), 42)
      yield* Fiber.interrupt(yield* seen[0]!.link(Effect.never))
      assert.strictEqual((yield* Tree.get("App/a")).restarts, 0)
      const failing = yield* seen[0]!.link(Effect.fail("linked"))
      yield* settle
      assert.strictEqual(seen.length, 2)
      assert.isTrue(Exit.isFailure(yield* Fiber.await(failing)))
      const cause = (yield* Tree.get("App/a")).crashes[0]?.cause
      assert.strictEqual(cause && Cause.squash(cause), "linked")
    })
  )

  scenario("of a former instance does nothing to the present one", () =>
    Effect.gen(function* () {
      const seen: Array<Process.Process["Service"]> = []
      yield* startApp("one_for_one", [Child.layer("a", reporting(seen))])
      yield* Tree.kill("App/a")
      yield* settle
      yield* seen[0]!.link(Effect.die("from the past"))
      yield* seen[0]!.exit(Exit.die("from the past"))
      yield* settle
      assert.strictEqual((yield* Tree.get("App/a")).incarnation, 2)
    })
  )
})

describe("Process.exit", () => {
  for (const [restart, reason, expected] of [
    ["permanent", Exit.void, "running 2"],
    ["permanent", Exit.die("x"), "running 2"],
    ["transient", Exit.void, "finished 1"],
    ["transient", Exit.fail("x"), "running 2"],
    ["temporary", Exit.fail("x"), "gone"]
  ] as const) {
    scenario(
      `of a ${restart} process with ${Exit.isSuccess(reason) ? "success" : "a failure"} leaves it ${expected}`,
      () =>
        Effect.gen(function* () {
          const seen: Array<Process.Process["Service"]> = []
          yield* startApp("one_for_one", [Child.layer("a", reporting(seen), { restart })])
          yield* seen[0]!.exit(reason)
          yield* settle
          const node = yield* Effect.option(Tree.get("App/a"))
          assert.strictEqual(node._tag === "None" ? "gone" : `${node.value.status} ${node.value.incarnation}`, expected)
        })
    )
  }

  scenario("while the process is starting fails the start, or ends it as soon as it is up", () =>
    Effect.gen(function* () {
      const during = (reason: Exit.Exit<unknown, unknown>) =>
        Layer.effectDiscard(
          Effect.gen(function* () {
            const { exit, incarnation } = yield* Process.Process
            if (incarnation === 1) yield* exit(reason)
            yield* Effect.yieldNow
          })
        ) as Layer.Layer<never>
      const failed = yield* Effect.exit(startApp("one_for_one", [Child.layer("a", during(Exit.die("no")))]))
      assert.isTrue(Exit.isFailure(failed))
      yield* start(
        Supervisor.layer("Other", { strategy: "one_for_one", children: [Child.layer("a", during(Exit.void))] })
      )
      yield* settle
      assert.strictEqual((yield* Tree.get("Other/a")).incarnation, 2)
    })
  )

  scenario("twice is once", () =>
    Effect.gen(function* () {
      const seen: Array<Process.Process["Service"]> = []
      yield* startApp("one_for_one", [Child.layer("a", reporting(seen))])
      yield* seen[0]!.exit(Exit.die("one"))
      yield* seen[0]!.exit(Exit.die("two"))
      yield* settle
      const node = yield* Tree.get("App/a")
      assert.strictEqual(node.incarnation, 2)
      assert.strictEqual(node.crashes.length, 1)
    })
  )
})

describe("Process.monitor", () => {
  scenario("tells of a crash, a kill, a normal end and a stop, each with its reason and instance", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* startApp("one_for_one", [Child.effect("a", a.effect)])
      yield* settle
      const downs: Array<Process.Down> = []
      for (const end of [a.crash("boom"), Tree.kill("App/a"), a.end(Effect.succeed("done")), app.stop]) {
        const down = yield* Process.monitor("App/a")
        yield* end
        yield* settle
        downs.push(yield* down)
      }
      assert.deepStrictEqual(
        downs.map(({ incarnation, path, reason }) => `${path} ${incarnation} ${reason}`),
        ["App/a 1 crashed", "App/a 2 killed", "App/a 3 normal", "App/a 4 shutdown"]
      )
      const [crash] = downs
      assert.strictEqual(crash && Exit.isFailure(crash.exit) && Cause.squash(crash.exit.cause), "boom")
    })
  )

  scenario("waits, and tells when the process has ended, not when it begins to", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      a.stopTakes = "1 second"
      yield* startApp("one_for_one", [a.child()])
      const down = yield* fork(Effect.flatten(Process.monitor("App/a")))
      yield* settle
      assert.strictEqual(outcome(down), "running")
      yield* a.crash()
      yield* pass(999)
      assert.strictEqual(outcome(down), "running")
      yield* pass(1)
      assert.strictEqual((yield* Fiber.join(down)).reason, "crashed")
    })
  )

  scenario("tells exactly once: it is about the instance that ran then, and no later one", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const down = yield* Process.monitor("App/a")
      let told = 0
      yield* fork(Effect.tap(down, () => Effect.sync(() => told++)))
      yield* a.crash("first")
      yield* settle
      yield* a.crash("second")
      yield* settle
      assert.strictEqual(told, 1)
      for (let n = 0; n < 2; n++) {
        const { exit, incarnation } = yield* down
        assert.strictEqual(incarnation, 1)
        assert.strictEqual(Exit.isFailure(exit) && Cause.squash(exit.cause), "first")
      }
    })
  )

  scenario("tells every monitor, and every fiber that waits for one", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const one = yield* Process.monitor("App/a")
      const two = yield* Process.monitor("App/a")
      const waiting = yield* Effect.forEach([one, one, two], fork)
      yield* a.crash()
      yield* settle
      assert.deepStrictEqual(
        (yield* Effect.forEach(waiting, Fiber.join)).map(({ reason }) => reason),
        ["crashed", "crashed", "crashed"]
      )
    })
  )

  scenario("tells at once that there is no process: unknown, down, or finished", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      yield* startApp("one_for_one", [a.child(), Child.effect("b", b.effect, { restart: "transient" })])
      yield* settle
      a.startTakes = "1 hour"
      yield* a.crash()
      yield* b.end(Effect.void)
      yield* settle
      for (const path of ["Nobody", "App/x", "App/a", "App/b", ""]) {
        const down = yield* Effect.flatten(Process.monitor(path))
        assert.deepStrictEqual(down, { path, incarnation: 0, reason: "no process", exit: Exit.void })
      }
    })
  )

  scenario("ends with its scope: what happens then is told to nobody", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const scope = yield* Scope.make()
      const down = yield* Scope.provide(Process.monitor("App/a"), scope)
      const waiting = yield* fork(down)
      yield* Scope.close(scope, Exit.void)
      yield* a.crash()
      yield* settle
      assert.strictEqual(outcome(waiting), "running")
    })
  )

  scenario("of a supervisor tells when it gives up, and of a root as well", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", maxRestarts: 0, children: [a.child()] })
      yield* startApp("one_for_one", [Child.layer("inner", inner)], { maxRestarts: 0 })
      const down = yield* Effect.forEach(["App", "App/inner", "App/inner/a"], Process.monitor)
      yield* a.crash("deep")
      yield* settle
      const [app, supervisor, worker] = yield* Effect.all(
        down as [(typeof down)[0], (typeof down)[0], (typeof down)[0]]
      )
      assert.deepStrictEqual([app.reason, supervisor.reason, worker.reason], ["crashed", "crashed", "crashed"])
      const cause = Exit.isFailure(app.exit) ? Cause.squash(app.exit.cause) : undefined
      assert.instanceOf(cause, Supervisor.MaxRestartsExceeded)
      assert.strictEqual((yield* Effect.flatten(Process.monitor("App"))).reason, "no process")
    })
  )

  scenario("of a root tells of its stop and of its kill", () =>
    Effect.gen(function* () {
      const one = yield* startApp("one_for_one", [])
      const stopped = yield* Process.monitor("App")
      yield* one.stop
      assert.strictEqual((yield* stopped).reason, "shutdown")
      yield* startApp("one_for_one", [])
      const killed = yield* Process.monitor("App")
      yield* Tree.kill("App")
      yield* settle
      assert.strictEqual((yield* killed).reason, "killed")
    })
  )

  scenario("by a child whose sibling dies lets it act on it", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const seen: Array<string> = []
      const watcher = Effect.scoped(
        Effect.gen(function* () {
          const { incarnation, reason } = yield* yield* Process.monitor("App/a")
          seen.push(`${incarnation} ${reason}`)
        })
      )
      yield* startApp("one_for_one", [a.child(), Child.effect("watcher", Effect.forever(watcher))])
      yield* settle
      for (let n = 0; n < 2; n++) {
        yield* a.crash()
        yield* pass(1)
      }
      // While a is down, the loop is told "no process" again and again.
      assert.deepStrictEqual(
        seen.filter((line) => !line.endsWith("no process")),
        ["1 crashed", "2 crashed"]
      )
    })
  )
})

describe("Process.unlinked", () => {
  scenario("lets fibers fail without harm, and stops them with the process", () =>
    Effect.gen(function* () {
      const fuse = yield* Deferred.make<never>()
      const log: Array<string> = []
      const layer = Layer.effectDiscard(
        Process.unlinked(
          Effect.gen(function* () {
            yield* Effect.forkScoped(Deferred.await(fuse))
            yield* Effect.forkScoped(Effect.onExit(Effect.never, () => Effect.sync(() => log.push("stopped"))))
            yield* Effect.addFinalizer(() => Effect.sync(() => log.push("released")))
          })
        )
      )
      const app = yield* startApp("one_for_one", [Child.layer("a", layer)])
      yield* settle
      yield* Deferred.die(fuse, "harmless")
      yield* settle
      assert.strictEqual((yield* Tree.get("App/a")).restarts, 0)
      assert.deepStrictEqual(log, [])
      yield* app.stop
      assert.deepStrictEqual(log, ["released", "stopped"])
    })
  )
})
