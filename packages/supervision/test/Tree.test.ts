import { Child, GenServer, Process, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Data, Deferred, Effect, Fiber, Layer, Schema, Stream } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { pass, record, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

describe("Tree.snapshot", () => {
  scenario("shows every process with what is known of it", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const reporting = Layer.effectDiscard(
        Effect.flatMap(Process.Process, ({ report }) => report(() => ({ mailboxLength: 3, handled: 7 })))
      ) as Layer.Layer<never>
      const inner = Supervisor.layer("Inner", { strategy: "rest_for_one", children: [b.child()] })
      yield* pass("1 second")
      yield* startApp("one_for_one", [a.child(), Child.layer("inner", inner), Child.layer("reporting", reporting)])
      yield* pass("2 seconds")
      yield* a.crash("boom")
      yield* pass("3 seconds")
      const worker = {
        kind: "worker" as const,
        strategy: undefined,
        status: "running" as const,
        incarnation: 1,
        restarts: 0,
        crashes: [],
        uptimeMillis: 5000,
        mailboxLength: undefined,
        handled: undefined,
        leaked: 0,
        children: []
      }
      const supervisor = { ...worker, kind: "supervisor" as const }
      const expected = {
        ...supervisor,
        path: "App",
        id: "App",
        strategy: "one_for_one" as const,
        children: [
          {
            ...worker,
            path: "App/a",
            id: "a",
            incarnation: 2,
            restarts: 1,
            crashes: [{ at: 3000, cause: Cause.die("boom") }],
            uptimeMillis: 3000
          },
          {
            ...supervisor,
            path: "App/inner",
            id: "inner",
            strategy: "rest_for_one" as const,
            children: [{ ...worker, path: "App/inner/b", id: "b" }]
          },
          { ...worker, path: "App/reporting", id: "reporting", mailboxLength: 3, handled: 7 }
        ]
      }
      const [app] = yield* Tree.snapshot
      const [crash] = app?.children[0]?.crashes ?? []
      assert.strictEqual(crash && Cause.squash(crash.cause), "boom")
      const plain = (value: unknown): unknown =>
        JSON.parse(JSON.stringify(value, (key, it: unknown) => (key === "cause" ? "a cause" : it)))
      assert.deepStrictEqual(plain(app), plain(expected))
      assert.deepStrictEqual(plain(yield* Tree.get("App/inner/b")), plain(expected.children[1]?.children[0]))
    })
  )

  scenario("is there although a process throws when it is asked for its report", () =>
    Effect.gen(function* () {
      const throwing = Layer.effectDiscard(
        Effect.flatMap(Process.Process, ({ report }) =>
          report(() => {
            throw new Error("no report")
          })
        )
      ) as Layer.Layer<never>
      yield* startApp("one_for_one", [Child.layer("a", throwing)])
      assert.isUndefined((yield* Tree.get("App/a")).mailboxLength)
      assert.strictEqual(yield* Tree.render, "App (one_for_one)  running\n└─ a  running")
    })
  )

  scenario("is a value of its moment: what happens later does not change it", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const before = yield* Tree.snapshot
      yield* a.crash()
      yield* settle
      assert.strictEqual(before[0]?.children[0]?.restarts, 0)
      assert.strictEqual(before[0]?.children[0]?.crashes.length, 0)
    })
  )

  scenario("keeps the latest ten crashes, oldest first, failed restarts among them", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()], { maxRestarts: 100 })
      for (let n = 1; n <= 11; n++) {
        yield* a.crash(n)
        yield* settle
      }
      a.failingStarts = 1
      yield* a.crash(12)
      yield* settle
      assert.deepStrictEqual(
        (yield* Tree.get("App/a")).crashes.map(({ cause }) => Cause.squash(cause)),
        [4, 5, 6, 7, 8, 9, 10, 11, 12, "a cannot start"]
      )
    })
  )

  scenario("shows what a process does at every moment of its life", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const status = (id: string) => Effect.map(Tree.get(`App/${id}`), (node) => `${node.status} ${node.incarnation}`)
      a.startTakes = a.stopTakes = b.startTakes = "1 second"
      const app = yield* Effect.forkScoped(startApp("one_for_one", [a.child(), b.child()]))
      yield* settle
      assert.strictEqual(yield* status("a"), "starting 1")
      assert.strictEqual(yield* status("b"), "starting 0")
      yield* pass("2 seconds")
      assert.strictEqual(yield* status("b"), "running 1")
      const { stop } = yield* Fiber.join(app)
      yield* a.crash()
      yield* settle
      assert.strictEqual(yield* status("a"), "stopping 1")
      yield* pass("1 second")
      assert.strictEqual(yield* status("a"), "restarting 2")
      yield* pass("1 second")
      assert.strictEqual(yield* status("a"), "running 2")
      yield* Effect.forkScoped(stop)
      yield* settle
      assert.strictEqual(yield* status("a"), "stopping 2")
      assert.strictEqual(yield* status("b"), "stopped 1")
      yield* pass("1 second")
      assert.deepStrictEqual(yield* Tree.snapshot, [])
    })
  )

  scenario("of a path that nobody has fails and lists those that there are", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const nothing = yield* Effect.flip(Tree.get("App"))
      assert.strictEqual(nothing.message, 'no process runs at "App"; there are: none')
      yield* startApp("one_for_one", [a.child()])
      const error = yield* Effect.flip(Tree.get("App/b"))
      assert.instanceOf(error, Tree.ProcessNotFound)
      assert.deepStrictEqual(error.known, ["App", "App/a"])
      assert.strictEqual(error.message, 'no process runs at "App/b"; there are: App, App/a')
    })
  )
})

describe("Tree.render", () => {
  class Counter extends GenServer.Service<Counter>()("test/Counter", {
    init: () => Effect.succeed(0),
    calls: { slow: (n) => Effect.delay(Effect.succeed(GenServer.reply(n, n)), "1 second") }
  }) {}

  scenario("is the trees as text, a line for each process", () =>
    Effect.gen(function* () {
      const { a, b, c, d } = cast("a", "b", "c", "d")
      const inner = Supervisor.layer("Inner", { strategy: "one_for_all", children: [b.child(), c.child()] })
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          maxRestarts: 100,
          children: [
            a.child({ shutdown: "1 second" }),
            Child.layer("inner", inner),
            Child.layer("counter", Counter.layer()),
            Child.effect("d", d.effect, { restart: "transient" })
          ]
        })
      )
      yield* settle
      const counter = Context.get(app.context, Counter)
      yield* Effect.forEach([1, 2, 3], () => Effect.forkScoped(counter.slow()))
      yield* a.crash(new Error("first"))
      yield* settle
      a.stopTakes = "1 hour"
      yield* a.crash(new TypeError("second"))
      yield* c.crash("in the middle")
      yield* d.end(Effect.void)
      yield* pass(999)
      assert.strictEqual(
        yield* Tree.render,
        `App (one_for_one)  running
├─ a  stopping  2 restarts, last: second
├─ inner (one_for_all)  running
│  ├─ b  running
│  └─ c  running  1 restart, last: in the middle
├─ counter  running  mailbox 2
└─ d  finished`
      )
      yield* pass(1)
      assert.include(yield* Tree.render, "├─ a  running  2 restarts, last: second  1 leaked\n")
      a.stopTakes = 0
    })
  )

  scenario("of nothing is nothing, and of two trees is one below the other", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Tree.render, "")
      yield* startApp("one_for_all", [])
      yield* start(Supervisor.layer("Other", { strategy: "rest_for_one", children: [Child.effect("x", Effect.never)] }))
      assert.strictEqual(
        yield* Tree.render,
        `App (one_for_all)  running
Other (rest_for_one)  running
└─ x  running`
      )
    })
  )

  scenario("tells a crash in one short line, whatever its cause is", () =>
    Effect.gen(function* () {
      class Tagged extends Schema.TaggedError<Tagged>()("Tagged", { id: Schema.Finite }) {}
      class Plain extends Data.TaggedError("Plain")<{ readonly id: number }> {}
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()], { maxRestarts: 100 })
      const lines: Array<string> = []
      for (const cause of [
        new Error("one\ntwo\n  three"),
        new Error(""),
        new Error("x".repeat(500)),
        new Tagged({ id: 1 }),
        new Plain({ id: 1 }),
        { _tag: "Record", id: 7 },
        null,
        undefined,
        "a string\nof two lines",
        Symbol("symbol")
      ]) {
        yield* a.end(Effect.die(cause))
        yield* settle
        lines.push(
          (yield* Tree.render)
            .split("\n")
            .slice(1)
            .join("\n")
            .replace(/^.*last: /, "")
        )
      }
      assert.deepStrictEqual(lines, [
        "one",
        "Error",
        `${"x".repeat(99)}…`,
        "Tagged",
        "Plain",
        '{"_tag":"Record","id":7}',
        "null",
        "undefined",
        "a string",
        "Symbol(symbol)"
      ])
    })
  )
})

describe("Tree.changes", () => {
  scenario("tells what happens from now on, in order", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const events = yield* record
      const app = yield* startApp("one_for_one", [
        a.child({ shutdown: "1 second" }),
        Child.effect("b", b.effect, { restart: "transient" })
      ])
      yield* settle
      a.failingStarts = 1
      yield* a.crash("boom")
      yield* settle
      yield* b.end(Effect.void)
      yield* settle
      a.stopTakes = "1 hour"
      yield* Effect.forkScoped(app.stop)
      yield* pass("1 second")
      a.stopTakes = 0
      assert.deepStrictEqual(
        events.map((event) => `${event._tag} ${event.path}${"incarnation" in event ? ` ${event.incarnation}` : ""}`),
        [
          "Started App/a 1",
          "Started App/b 1",
          "Crashed App/a",
          "Stopped App/a",
          "Stopped App/a",
          "StartFailed App/a",
          "Restarted App/a 3",
          "Stopped App/b",
          "Finished App/b",
          "Leaked App/a",
          "Stopped App/a"
        ]
      )
    })
  )

  scenario("carries time and cause", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const events = yield* record
      yield* pass("90 seconds")
      yield* a.crash("boom")
      yield* settle
      const [crash] = events
      assert.strictEqual(crash?._tag, "Crashed")
      assert.strictEqual(crash?.at, 90_000)
      assert.strictEqual(crash?._tag === "Crashed" ? Cause.squash(crash.cause) : undefined, "boom")
    })
  )

  scenario("a subscriber that does not read loses its oldest events and harms nobody", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()], { maxRestarts: 1_000_000 })
      const gate = yield* Deferred.make<void>()
      const slow: Array<Tree.Event> = []
      yield* Effect.forkScoped(
        Stream.runForEach(Tree.changes, (event) =>
          Effect.andThen(
            Deferred.await(gate),
            Effect.sync(() => slow.push(event))
          )
        ),
        { startImmediately: true }
      )
      const fast = yield* record
      for (let n = 0; n < 500; n++) {
        yield* a.crash()
        yield* Effect.repeat(Effect.yieldNow, { times: 10 })
      }
      yield* settle
      assert.strictEqual(fast.length, 1500)
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.repeat(settle, { times: 30 })
      assert.isBelow(slow.length, 1100)
      assert.strictEqual(slow.at(-1), fast.at(-1))
    })
  )

  scenario("ends its listening with its subscriber", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()])
      const seen = yield* Effect.forkChild(Stream.runHead(Tree.changes), { startImmediately: true })
      yield* a.crash()
      yield* settle
      assert.strictEqual((yield* Fiber.join(seen))._tag, "Some")
      yield* a.crash()
      yield* settle
      assert.strictEqual((yield* Tree.get("App/a")).restarts, 2)
    })
  )
})
