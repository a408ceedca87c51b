// Children that outlive their shutdown: JavaScript cannot kill them, so they are left behind in the open and fenced off.
import { Child, GenServer, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Metric, Stream } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { withLogs } from "./fixtures/Logs.ts"
import { outcome, pass, record, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

/** Starts to stop a tree, and gives the fiber that ends when it has stopped. */
const beginStop = (app: { readonly stop: Effect.Effect<void> }) =>
  Effect.tap(Effect.forkScoped(app.stop, { startImmediately: true }), settle)

describe("a child that will not stop", () => {
  const stubborn = Layer.effectDiscard(Effect.addFinalizer(() => Effect.never))

  scenario("is abandoned: shown as leaked, logged, counted, told, and no longer when it ends after all", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const events = yield* record
        const { a } = cast("a")
        a.stopTakes = "10 seconds"
        yield* startApp("one_for_one", [a.child({ shutdown: "1 second" })])
        yield* a.crash()
        yield* pass(1000)
        const leaked = yield* Tree.get("App/a")
        assert.strictEqual(leaked.leaked, 1)
        assert.strictEqual(leaked.status, "running")
        assert.strictEqual(leaked.incarnation, 2)
        assert.include(yield* Tree.render, "1 leaked")
        assert.strictEqual(events.filter(({ _tag }) => _tag === "Leaked").length, 1)
        const loud = lines.find(({ message }) => message.includes("leaked"))
        assert.strictEqual(loud?.level, "Error")
        assert.strictEqual(loud?.annotations["path"], "App/a")
        const gauge = Effect.map(Metric.snapshot, (metrics) =>
          metrics
            .filter(
              ({ attributes, id }) => id === "coppice_supervisor_leaked_children" && attributes?.["path"] === "App/a"
            )
            .map(({ state }) => ("value" in state ? Number(state.value) : 0))
        )
        assert.deepStrictEqual(yield* gauge, [1])

        lines.length = 0
        yield* pass(8999)
        assert.strictEqual((yield* Tree.get("App/a")).leaked, 1)
        yield* pass(1)
        assert.strictEqual((yield* Tree.get("App/a")).leaked, 0)
        assert.deepStrictEqual(
          lines.map(({ message }) => message),
          ["leaked child has ended after all"]
        )
        assert.deepStrictEqual(yield* gauge, [0])
        a.stopTakes = 0
        // Metrics are the process's, and other tests leave children of the same name behind.
      }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
    )
  )

  scenario("is counted for each of its instances that is still there", () =>
    Effect.gen(function* () {
      yield* startApp("one_for_one", [Child.layer("a", stubborn, { shutdown: "1 second" })])
      for (let n = 1; n <= 3; n++) {
        yield* Tree.kill("App/a")
        yield* pass("1 second")
        assert.strictEqual((yield* Tree.get("App/a")).leaked, n)
      }
    })
  )

  scenario("with brutal_kill is no error: nobody promised to wait for it", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const { a } = cast("a")
        a.stopTakes = "1 second"
        const app = yield* startApp("one_for_one", [a.child({ shutdown: "brutal_kill" })])
        lines.length = 0
        yield* app.stop
        assert.deepStrictEqual(
          lines.filter(({ level }) => level === "Error"),
          []
        )
        yield* pass("1 second")
      })
    )
  )

  scenario("does not keep the rest from stopping, nor its supervisor from ending", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const app = yield* startApp("one_for_one", [a.child(), Child.layer("stubborn", stubborn), b.child()])
      journal.take()
      const stop = yield* beginStop(app)
      yield* pass("5 seconds")
      yield* Fiber.join(stop)
      assert.strictEqual(journal.take(), "-b -a")
      assert.deepStrictEqual(yield* Tree.snapshot, [])
    })
  )

  scenario("that crashes later is ignored, whatever runs in its place", () =>
    Effect.gen(function* () {
      const zombies: Array<Deferred.Deferred<never>> = []
      const layer = Layer.effectDiscard(
        Effect.gen(function* () {
          const late = yield* Deferred.make<never>()
          zombies.push(late)
          yield* Effect.forkScoped(Effect.uninterruptible(Deferred.await(late)), { startImmediately: true })
        })
      )
      yield* startApp("one_for_one", [Child.layer("a", layer, { shutdown: "1 second" })], { maxRestarts: 1 })
      yield* Tree.kill("App/a")
      yield* pass("1 second")
      assert.strictEqual((yield* Tree.get("App/a")).leaked, 1)
      yield* Deferred.die(zombies[0]!, "from the grave")
      yield* settle
      const node = yield* Tree.get("App/a")
      assert.strictEqual(node.status, "running")
      assert.strictEqual(node.incarnation, 2)
      assert.strictEqual(node.restarts, 1)
      assert.strictEqual(node.leaked, 0)
      yield* Deferred.die(zombies[1]!, "this one counts")
      yield* settle
      assert.strictEqual((yield* Tree.get("App")).children.length, 1)
      assert.strictEqual((yield* Tree.get("App/a")).status, "stopped")
    })
  )

  scenario("is reached by nobody any more: calls that ran on it have failed, new ones reach the new instance", () =>
    Effect.gen(function* () {
      class Slow extends Context.Service<
        Slow,
        { readonly number: Effect.Effect<number>; readonly stuck: Effect.Effect<number> }
      >()("test/Slow") {}
      let instances = 0
      const layer = Layer.effect(
        Slow,
        Effect.gen(function* () {
          const n = ++instances
          yield* Effect.addFinalizer(() => (n === 1 ? Effect.never : Effect.void))
          return { number: Effect.sync(() => n), stuck: Effect.never }
        })
      )
      const { a } = cast("a")
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_all",
          children: [a.child(), Child.layer("slow", layer, { shutdown: "1 second" })]
        })
      )
      const slow = Context.get(app.context, Slow)
      const stuck = yield* Effect.forkScoped(slow.stuck, { startImmediately: true })
      yield* a.crash()
      yield* pass("1 second")
      const exit = outcome(stuck)
      assert.isTrue(exit !== "running" && Exit.isFailure(exit))
      const error = Cause.squash((exit as Exit.Failure<number, never>).cause)
      assert.instanceOf(error, Child.ChildUnavailable)
      assert.strictEqual(error.path, "App/slow")
      assert.strictEqual(error.reason, "stopped")
      assert.strictEqual(yield* slow.number, 2)
    })
  )

  scenario("as a nested supervisor does not show again what its last child was doing", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        children: [a.child(), b.child({ restart: "temporary" })]
      })
      yield* startApp("one_for_one", [Child.layer("inner", inner, { shutdown: "1 second" })])
      b.stopTakes = "3 seconds"
      yield* b.crash()
      yield* settle
      yield* Tree.kill("App/inner")
      yield* pass("1 second")
      b.stopTakes = 0
      yield* pass("3 seconds")
      assert.deepStrictEqual(
        (yield* Tree.get("App/inner")).children.map(({ id, status }) => `${id} ${status}`),
        ["a running", "b running"]
      )
    })
  )

  scenario("as a nested supervisor does not disturb the one in its place, neither then nor when it ends at last", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      a.stopTakes = "10 seconds"
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        children: [a.child({ shutdown: "infinity" }), b.child()]
      })
      yield* startApp("one_for_one", [Child.layer("inner", inner, { shutdown: "1 second" })])
      yield* Tree.kill("App/inner")
      yield* pass("1 second")
      const shape = Effect.map(Tree.get("App/inner"), ({ children, kind, strategy }) => [
        kind,
        strategy,
        ...children.map(({ path, status }) => `${path} ${status}`)
      ])
      const expected = ["supervisor", "one_for_one", "App/inner/a running", "App/inner/b running"]
      assert.deepStrictEqual(yield* shape, expected)
      yield* pass("1 hour")
      assert.strictEqual((yield* Tree.get("App/inner")).leaked, 0)
      assert.deepStrictEqual(yield* shape, expected)
    })
  )
})

describe("what an abandoned child still asks of others", () => {
  const written: Array<string> = []
  class Store extends Context.Service<
    Store,
    {
      readonly write: (line: string) => Effect.Effect<void>
      readonly inside: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
      readonly lines: Stream.Stream<string>
    }
  >()("test/Store") {}
  const store = Layer.succeed(Store, {
    write: (line) => Effect.sync(() => written.push(line)),
    inside: (effect) => effect,
    lines: Stream.fromIterable(written)
  })
  class Counter extends GenServer.Service<Counter>()("test/Counter", {
    init: () => Effect.succeed(0),
    calls: { add: (n) => Effect.succeed(GenServer.reply(n + 1, n + 1)) },
    casts: { set: (_n, to: number) => Effect.succeed(to) }
  }) {}

  /** Does everything that a child can do with its siblings, after the gate has opened. */
  const late = (gate: Deferred.Deferred<void>, said: Array<string>) => {
    const use = (what: string, effect: Effect.Effect<unknown, unknown, Store | Counter>) =>
      Effect.map(Effect.exit(effect), (exit) => {
        const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        said.push(`${what}: ${error instanceof Child.ChildUnavailable ? error.reason : Exit.isSuccess(exit)}`)
      })
    return Layer.effectDiscard(
      Effect.gen(function* () {
        const { inside, lines, write } = yield* Store
        yield* Effect.addFinalizer(() =>
          Effect.gen(function* () {
            yield* Deferred.await(gate)
            yield* use("call", write("late"))
            yield* use("class call", Counter.add())
            yield* use("class cast", Counter.set(1))
            yield* use("stream", Stream.runDrain(lines))
          }).pipe(Effect.provideService(Counter, counter))
        )
        yield* Effect.addFinalizer(() =>
          Effect.forkDetach(inside(Effect.andThen(Deferred.await(gate), use("inside a call", write("inside")))))
        )
        const counter = yield* Counter
      })
    )
  }

  for (const nested of [false, true]) {
    scenario(`${nested ? "and those below it" : "itself"} is refused: its place has been taken`, () =>
      Effect.gen(function* () {
        written.length = 0
        const gate = yield* Deferred.make<void>()
        const said: Array<string> = []
        let first = true
        const layer = Layer.suspend(() => {
          const once = first
          first = false
          return once ? late(gate, said) : Layer.empty
        })
        const inner = Supervisor.layer("Inner", {
          strategy: "one_for_one",
          children: [Child.layer("late", layer, { shutdown: "infinity" })]
        })
        const children = [Child.layer("store", store), Child.layer("counter", Counter.layer())] as const
        yield* start(
          Supervisor.layer("App", {
            strategy: "one_for_one",
            children: [...children, Child.layer("late", nested ? inner : layer, { shutdown: "1 second" })]
          })
        )
        yield* Tree.kill("App/late")
        yield* pass("1 second")
        assert.strictEqual((yield* Tree.get("App/late")).leaked, 1)
        yield* Deferred.succeed(gate, undefined)
        yield* settle
        assert.deepStrictEqual(said.toSorted(), [
          "call: abandoned",
          "class call: abandoned",
          "class cast: abandoned",
          "inside a call: abandoned",
          "stream: abandoned"
        ])
        assert.deepStrictEqual(written, [])
        assert.strictEqual((yield* Tree.get("App/late")).leaked, 0)
      })
    )
  }
})
