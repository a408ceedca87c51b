import { Application, Child, Process, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Schedule } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { outcome, pass, scenario, settle, startApp } from "./fixtures/Scenario.ts"

describe("Tree.kill", () => {
  scenario("crashes a worker, which is restarted like after any crash", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      yield* startApp("one_for_one", [a.child({ restart: "transient" }), b.child()])
      journal.take()
      yield* Tree.kill("App/a")
      yield* settle
      assert.strictEqual(journal.take(), "-a +a")
      const [crash] = (yield* Tree.get("App/a")).crashes
      const reason = crash && Cause.squash(crash.cause)
      assert.instanceOf(reason, Tree.Killed)
      assert.strictEqual(reason.message, "App/a was killed")
    })
  )

  scenario("counts against the intensity", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* Effect.forkScoped(
        Application.launch(Supervisor.layer("App", { strategy: "one_for_one", children: [a.child()] })),
        { startImmediately: true }
      )
      yield* settle
      for (let n = 0; n < 4; n++) {
        assert.strictEqual(outcome(app), "running")
        yield* Tree.kill("App/a")
        yield* settle
      }
      assert.notStrictEqual(outcome(app), "running")
    })
  )

  scenario("crashes a nested supervisor with all below it, in order", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [b.child(), c.child()] })
      yield* startApp("one_for_one", [a.child(), Child.layer("inner", inner)])
      journal.take()
      yield* Tree.kill("App/inner")
      yield* settle
      assert.strictEqual(journal.take(), "-c -b +b +c")
      assert.strictEqual((yield* Tree.get("App/inner")).restarts, 1)
      assert.strictEqual((yield* Tree.get("App/inner/b")).restarts, 0)
    })
  )

  scenario("of a root stops its children in reverse and ends its application", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const app = yield* Effect.forkScoped(
        Application.launch(Supervisor.layer("App", { strategy: "one_for_one", children: [a.child(), b.child()] })),
        { startImmediately: true }
      )
      yield* settle
      journal.take()
      yield* Tree.kill("App")
      yield* settle
      assert.strictEqual(journal.take(), "-b -a")
      const exit = outcome(app)
      const reason = exit !== "running" && Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit
      assert.instanceOf(reason, Tree.Killed)
    })
  )

  scenario("fails a start that is under way, first or again", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      a.startTakes = "1 hour"
      const app = yield* Effect.forkScoped(Effect.exit(startApp("one_for_one", [a.child()])))
      yield* settle
      yield* Tree.kill("App/a")
      yield* settle
      const exit = yield* Fiber.join(app)
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit
      assert.instanceOf(error, Supervisor.StartError)
      assert.instanceOf(Cause.squash(error.reason), Tree.Killed)

      a.startTakes = 0
      yield* startApp("one_for_one", [a.child()])
      a.startTakes = "1 hour"
      yield* a.crash()
      yield* settle
      const { starts } = a
      a.startTakes = 0
      yield* Tree.kill("App/a")
      yield* settle
      assert.strictEqual(a.starts, starts + 1)
      assert.strictEqual((yield* Tree.get("App/a")).status, "running")
    })
  )

  scenario("of what does not run says what it does instead", () =>
    Effect.gen(function* () {
      const { a, b, c } = cast("a", "b", "c")
      const app = yield* startApp("one_for_one", [
        Child.effect("a", a.effect, { restart: "transient" }),
        b.child({ backoff: Schedule.spaced("1 hour") }),
        c.child()
      ])
      yield* settle
      const refused = (path: string) =>
        Effect.map(Effect.flip(Tree.kill(path)), (error) => {
          assert.instanceOf(error, Tree.ProcessNotFound)
          return error.message
        })
      yield* a.end(Effect.void)
      yield* b.crash()
      c.stopTakes = "1 hour"
      yield* c.crash()
      yield* settle
      assert.strictEqual(yield* refused("App/a"), 'no process runs at "App/a": it is finished')
      assert.strictEqual(yield* refused("App/b"), 'no process runs at "App/b": it is restarting')
      assert.strictEqual(yield* refused("App/c"), 'no process runs at "App/c": it is stopping')
      assert.strictEqual((yield* Tree.get("App/a")).status, "finished")
      assert.strictEqual((yield* Tree.get("App/b")).crashes.length, 1)

      yield* Tree.kill("App")
      yield* settle
      assert.strictEqual(yield* refused("App"), 'no process runs at "App": it is stopping')
      yield* pass("2 hours")
      assert.strictEqual(yield* refused("App"), 'no process runs at "App": it is stopped')
      assert.strictEqual(yield* refused("App/c"), 'no process runs at "App/c": it is stopped')
      yield* app.stop
    })
  )

  scenario("of an unknown path says which there are", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const error = yield* Effect.flip(Tree.kill("App/b"))
      assert.strictEqual(error.message, 'no process runs at "App/b"; there are: App, App/a')
    })
  )

  scenario("a process may kill itself, or its supervisor", () =>
    Effect.gen(function* () {
      let starts = 0
      const suicidal = Effect.gen(function* () {
        const { path } = yield* Process.Process
        starts++
        if (starts === 1) yield* Tree.kill(path)
        if (starts === 2) yield* Tree.kill("App/inner")
        return yield* Effect.never
      })
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [Child.effect("a", suicidal)] })
      yield* startApp("one_for_one", [Child.layer("inner", inner)])
      yield* settle
      assert.strictEqual(starts, 3)
      assert.strictEqual((yield* Tree.get("App/inner")).restarts, 1)
    })
  )
})

describe("several trees", () => {
  scenario("of one name are told apart by a number, for as long as both are there", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const one = yield* startApp("one_for_one", [a.child()])
      const two = yield* startApp("one_for_one", [b.child()])
      const paths = Effect.map(Tree.snapshot, (roots) => roots.flatMap((root) => [root.path, root.children[0]?.path]))
      assert.deepStrictEqual(yield* paths, ["App", "App/a", "App~2", "App~2/b"])
      yield* Tree.kill("App~2/b")
      yield* settle
      assert.strictEqual((yield* Tree.get("App~2/b")).restarts, 1)
      assert.strictEqual((yield* Tree.get("App/a")).restarts, 0)
      yield* one.stop
      assert.deepStrictEqual(yield* paths, ["App~2", "App~2/b"])
      yield* startApp("one_for_one", [a.child()])
      assert.deepStrictEqual(yield* paths, ["App~2", "App~2/b", "App", "App/a"])
      yield* two.stop
    })
  )

  scenario("two supervisors in one layer: the second shows below the first, by its own name", () =>
    Effect.gen(function* () {
      const { Second, a, b } = cast("a", "b", "Second")
      const both = Layer.mergeAll(
        Supervisor.layer("First", { strategy: "one_for_one", children: [a.child(), Second.child()] }),
        Supervisor.layer("Second", { strategy: "one_for_all", children: [b.child()] })
      )
      const app = yield* startApp("one_for_one", [Child.layer("both", both)])
      assert.strictEqual(
        yield* Tree.render,
        `App (one_for_one)  running
└─ both (one_for_one)  running
   ├─ a  running
   ├─ Second  running
   └─ Second (one_for_all)  running
      └─ b  running`
      )
      assert.strictEqual((yield* Tree.get("App/both/Second~2/b")).status, "running")
      yield* b.crash()
      yield* settle
      assert.strictEqual((yield* Tree.get("App/both/Second~2/b")).restarts, 1)
      yield* Tree.kill("App/both")
      yield* settle
      assert.strictEqual((yield* Tree.get("App/both/Second~2/b")).incarnation, 1)
      yield* app.stop
      assert.deepStrictEqual(yield* Tree.snapshot, [])
    })
  )

  it.effect("Tree.layer keeps what is built on it to itself", () =>
    Effect.gen(function* () {
      const mine = Effect.scoped(
        Effect.gen(function* () {
          yield* startApp("one_for_one", [])
          return (yield* Tree.snapshot).length
        })
      ).pipe(Effect.provide(Tree.layer, { local: true }))
      assert.deepStrictEqual(yield* Effect.all([mine, mine], { concurrency: 2 }), [1, 1])
      const before = (yield* Tree.snapshot).length
      yield* startApp("one_for_one", [])
      assert.strictEqual((yield* Tree.snapshot).length, before + 1, "without it, the tree is everybody's")
    })
  )
})
