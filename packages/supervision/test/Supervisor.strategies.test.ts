import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Context, Deferred, Effect, Layer } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

const restarts = (id: string) => Effect.map(Tree.get(`App/${id}`), (node) => node.restarts)
const totalRestarts = Effect.map(Tree.get("App"), (node) =>
  node.children.reduce((sum, child) => sum + child.restarts, 0)
)

describe("one_for_one", () => {
  scenario("restarts the crashed child alone", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("one_for_one", [a.child(), b.child(), c.child()])
      journal.take()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-b +b")
    })
  )

  scenario("counts each of several simultaneous crashes", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("one_for_one", [a.child(), b.child(), c.child()])
      journal.take()
      yield* Effect.all([a.crash(), c.crash(), b.crash()])
      yield* settle
      assert.strictEqual(yield* totalRestarts, 3)
      assert.deepStrictEqual([a.starts, b.starts, c.starts], [2, 2, 2])
    })
  )

  scenario("a child that is slow to stop or start does not keep others from restarting", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      yield* startApp("one_for_one", [a.child(), b.child()])
      journal.take()
      a.stopTakes = a.startTakes = "1 second"
      yield* a.crash()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-a -b +b")
      yield* pass("2 seconds")
      assert.strictEqual(journal.take(), "=a +a")
    })
  )

  scenario("two crashes of one instance are one crash", () =>
    Effect.gen(function* () {
      const crash = Deferred.makeUnsafe<never>()
      let starts = 0
      const two = Layer.effectDiscard(
        Effect.gen(function* () {
          starts++
          if (starts > 1) return
          yield* Effect.forkScoped(Deferred.await(crash))
          yield* Effect.forkScoped(Deferred.await(crash))
        })
      )
      yield* startApp("one_for_one", [Child.layer("a", two)])
      yield* settle
      yield* Deferred.die(crash, "both")
      yield* settle
      assert.strictEqual(starts, 2)
      assert.strictEqual(yield* restarts("a"), 1)
    })
  )

  scenario("a child that fails to restart is tried again until it is up", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      yield* startApp("one_for_one", [a.child(), b.child()])
      journal.take()
      a.failingStarts = 2
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-a !a !a +a")
      assert.strictEqual(yield* restarts("a"), 3)
    })
  )
})

describe("one_for_all", () => {
  scenario("stops all others in reverse order and then starts all in order", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("one_for_all", [a.child(), b.child(), c.child()])
      journal.take()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c -b -a +a +b +c")
      assert.strictEqual(yield* totalRestarts, 1)
    })
  )

  scenario("stops one at a time: the next is told when the former has ended", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      b.stopTakes = c.stopTakes = "1 second"
      yield* startApp("one_for_all", [a.child(), b.child(), c.child()])
      journal.take()
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c")
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "=c -b")
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "=b -a +a +b +c")
    })
  )

  scenario("counts simultaneous crashes once", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("one_for_all", [a.child(), b.child(), c.child()], { maxRestarts: 1 })
      journal.take()
      yield* Effect.all([a.crash(), c.crash(), b.crash()])
      yield* settle
      assert.strictEqual(journal.take(), "-c -b -a +a +b +c")
      assert.strictEqual(yield* totalRestarts, 1)
    })
  )

  scenario("a crash of a sibling that waits for its own stop is not another one", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      c.stopTakes = "1 second"
      yield* startApp("one_for_all", [a.child(), b.child(), c.child()], { maxRestarts: 1 })
      journal.take()
      yield* a.crash()
      yield* settle
      yield* b.crash()
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "-c =c -b -a +a +b +c")
    })
  )

  scenario("when one fails to restart, those restarted already are stopped in reverse and all are tried again", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("one_for_all", [a.child(), b.child(), c.child()])
      journal.take()
      c.failingStarts = 1
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c -b -a +a +b !c -b -a +a +b +c")
      assert.strictEqual(yield* totalRestarts, 2)
    })
  )

  scenario("a child that crashes while the rest of its group is still starting begins the group anew", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("one_for_all", [a.child(), b.child(), c.child()])
      journal.take()
      c.startTakes = "1 second"
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c -b -a +a +b")
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-b -a +a +b")
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "+c")
      assert.strictEqual(c.mostAlive, 1)
    })
  )
})

describe("rest_for_one", () => {
  scenario("stops those started after the crashed child in reverse, and starts it and them in order", () =>
    Effect.gen(function* () {
      const { a, b, c, d, journal } = cast("a", "b", "c", "d")
      yield* startApp("rest_for_one", [a.child(), b.child(), c.child(), d.child()])
      journal.take()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-d -c -b +b +c +d")
      yield* d.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-d +d")
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-d -c -b -a +a +b +c +d")
      assert.strictEqual(yield* totalRestarts, 3)
    })
  )

  scenario("counts simultaneous crashes in the affected group once", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("rest_for_one", [a.child(), b.child(), c.child()], { maxRestarts: 1 })
      journal.take()
      yield* Effect.all([a.crash(), b.crash(), c.crash()])
      yield* settle
      assert.strictEqual(journal.take(), "-c -b -a +a +b +c")
    })
  )

  scenario("when a later child fails to restart, the retry begins at that child", () =>
    Effect.gen(function* () {
      const { a, b, c, d, journal } = cast("a", "b", "c", "d")
      yield* startApp("rest_for_one", [a.child(), b.child(), c.child(), d.child()])
      journal.take()
      c.failingStarts = 2
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-d -c -b +b !c !c +c +d")
      assert.strictEqual(yield* restarts("c"), 2)
      assert.strictEqual(yield* restarts("b"), 1)
    })
  )

  scenario("a crash of an earlier sibling takes over the restart of the later ones", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("rest_for_one", [a.child(), b.child(), c.child()])
      journal.take()
      c.startTakes = "1 second"
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c -b +b")
      yield* a.crash()
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "-b -a +a +b +c")
      assert.strictEqual(c.mostAlive, 1)
    })
  )

  scenario("a crash of a later sibling waits for nothing and is not counted when an earlier restart stops it", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      yield* startApp("rest_for_one", [a.child(), b.child(), c.child()], { maxRestarts: 2 })
      journal.take()
      b.startTakes = "1 second"
      yield* a.crash()
      yield* settle
      yield* a.crash()
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "-c -b -a +a -a +a +b +c")
    })
  )
})

describe("who takes part in a group restart", () => {
  for (const strategy of ["one_for_all", "rest_for_one"] as const) {
    scenario(`${strategy} drops running temporaries: they are stopped and not started again`, () =>
      Effect.gen(function* () {
        const { a, b, c, journal } = cast("a", "b", "c")
        yield* startApp(strategy, [a.child(), b.child({ restart: "temporary" }), c.child()])
        journal.take()
        yield* a.crash()
        yield* settle
        assert.strictEqual(journal.take(), "-c -b -a +a +c")
        const app = yield* Tree.get("App")
        assert.deepStrictEqual(
          app.children.map((child) => child.id),
          ["a", "c"]
        )
      })
    )

    scenario(`${strategy} revives transients that had finished`, () =>
      Effect.gen(function* () {
        const { a, b, journal } = cast("a", "b")
        yield* startApp(strategy, [a.child(), Child.effect("b", b.effect, { restart: "transient" })])
        yield* settle
        yield* b.end(Effect.void)
        yield* settle
        assert.strictEqual(journal.take(), "+a +b -b")
        assert.strictEqual((yield* Tree.get("App/b")).status, "finished")
        yield* a.crash()
        yield* settle
        assert.strictEqual(journal.take(), "-a +a +b")
        assert.strictEqual((yield* Tree.get("App/b")).status, "running")
      })
    )

    scenario(
      `${strategy}: the crash of a temporary and the end of a transient touch nobody and count for nothing`,
      () =>
        Effect.gen(function* () {
          const { a, b, c, d, journal } = cast("a", "b", "c", "d")
          const App = [
            a.child(),
            b.child({ restart: "temporary" }),
            Child.effect("c", c.effect, { restart: "transient" }),
            d.child()
          ]
          yield* startApp(strategy, App, { maxRestarts: 0 })
          yield* settle
          journal.take()
          yield* b.crash()
          yield* settle
          yield* c.end(Effect.void)
          yield* settle
          assert.strictEqual(journal.take(), "-b -c")
          assert.strictEqual((yield* Tree.get("App")).status, "running")
          assert.strictEqual((yield* Tree.get("App/d")).status, "running")
        })
    )
  }

  scenario("a temporary that is slow to stop is not started again when an earlier crash takes the restart over", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      c.stopTakes = "1 second"
      yield* startApp("rest_for_one", [a.child(), b.child(), c.child({ restart: "temporary" })])
      journal.take()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c")
      yield* a.crash()
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "=c -b -a +a +b")
      assert.strictEqual((yield* Tree.get("App")).children.length, 2)
    })
  )

  scenario("a temporary that had not been started yet when its group begins anew is started", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      b.startTakes = "1 second"
      yield* Effect.forkScoped(startApp("one_for_all", [a.child(), b.child(), c.child({ restart: "temporary" })]))
      yield* settle
      yield* a.crash()
      yield* pass("1 second")
      assert.strictEqual(journal.take(), "+a -a +a +b +c")
    })
  )
})

describe("a crash while others start", () => {
  class Source extends Context.Service<Source, { readonly read: Effect.Effect<number> }>()("test/Source") {}

  const source = (crashes: Array<Deferred.Deferred<never>>) =>
    Layer.effect(
      Source,
      Effect.gen(function* () {
        const crash = yield* Deferred.make<never>()
        crashes.push(crash)
        yield* Effect.forkScoped(Deferred.await(crash))
        const n = crashes.length
        return { read: Effect.succeed(n) }
      })
    )

  for (const strategy of ["one_for_one", "one_for_all", "rest_for_one"] as const) {
    scenario(`${strategy}: a starting child that waits for its crashed sibling does not wait for ever`, () =>
      Effect.gen(function* () {
        const crashes: Array<Deferred.Deferred<never>> = []
        const seen: Array<number> = []
        const reader = Layer.effectDiscard(
          Effect.gen(function* () {
            const { read } = yield* Source
            yield* Effect.sleep("1 second")
            seen.push(yield* read)
          })
        )
        yield* Effect.forkScoped(
          start(
            Supervisor.layer("App", {
              strategy,
              children: [Child.layer("source", source(crashes)), Child.layer("reader", reader)]
            })
          )
        )
        yield* pass("500 millis")
        yield* Deferred.die(crashes[0]!, "while the reader starts")
        yield* pass("1 second")
        assert.deepStrictEqual(seen, [2])
        assert.strictEqual((yield* Tree.get("App/reader")).status, "running")
      })
    )
  }

  scenario("a restart that waits for a sibling which is down gets it, and the start order stays", () =>
    Effect.gen(function* () {
      const crashes: Array<Deferred.Deferred<never>> = []
      const { a, journal } = cast("a")
      const using = Layer.unwrap(
        Effect.map(Source, ({ read }) => {
          a.whileStarting = read
          return a.layer
        })
      )
      yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [Child.layer("source", source(crashes)), Child.layer("a", using)]
        })
      )
      journal.take()
      yield* Effect.all([a.crash(), Deferred.die(crashes[0]!, "together")])
      yield* settle
      assert.strictEqual(journal.take(), "-a +a")
      assert.strictEqual(
        (yield* Tree.get("App")).children.every((child) => child.status === "running"),
        true
      )
    })
  )
})

describe("a child being stopped in a group restart", () => {
  class Store extends Context.Service<Store, { readonly write: (line: string) => Effect.Effect<void> }>()(
    "test/Store"
  ) {}

  const store = (lines: Array<string>, crash: Deferred.Deferred<never>) => {
    let instance = 0
    return Layer.effect(
      Store,
      Effect.gen(function* () {
        const n = ++instance
        yield* Effect.forkScoped(Deferred.await(crash))
        return { write: (line) => Effect.sync(() => lines.push(`${n}: ${line}`)) }
      })
    )
  }
  const writer = Layer.effectDiscard(
    Effect.gen(function* () {
      const { write } = yield* Store
      yield* Effect.addFinalizer(() => write("flushed"))
    })
  )

  for (const strategy of ["one_for_all", "rest_for_one"] as const) {
    scenario(`${strategy}: still reaches the siblings that are stopped after it`, () =>
      Effect.gen(function* () {
        const lines: Array<string> = []
        const { a } = cast("a")
        const never = Deferred.makeUnsafe<never>()
        yield* start(
          Supervisor.layer("App", {
            strategy,
            children: [a.child(), Child.layer("store", store(lines, never)), Child.layer("writer", writer)]
          })
        )
        yield* a.crash()
        yield* settle
        assert.deepStrictEqual(lines, ["1: flushed"])
        assert.strictEqual((yield* Tree.get("App/writer")).status, "running")
      })
    )

    scenario(`${strategy}: does not wait for the crashed sibling, which waits for its stop`, () =>
      Effect.gen(function* () {
        const lines: Array<string> = []
        const crash = Deferred.makeUnsafe<never>()
        const layer = store(lines, crash)
        yield* start(
          Supervisor.layer("App", {
            strategy,
            children: [Child.layer("store", layer), Child.layer("writer", writer, { shutdown: "infinity" })]
          })
        )
        yield* settle
        yield* Deferred.die(crash, "disk")
        yield* settle
        assert.deepStrictEqual(lines, [])
        assert.isAbove((yield* Tree.get("App/writer")).incarnation, 1)
      })
    )
  }
})
