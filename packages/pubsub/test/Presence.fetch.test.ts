// What `fetch` adds to entries, and what it may not do.
import { Presence, PubSub } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Latch, Layer, Metric, References, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { ada, collected, grace, inScope, names, settle } from "./fixtures/Presence.ts"

interface Known {
  readonly email: string
}

class Directory extends Context.Service<
  Directory,
  { readonly find: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyMap<string, Known>, string> }
>()("test/Directory") {}

class People extends Presence.Service<People>()("test/People", {
  topic: Schema.Int,
  meta: Schema.Struct({ name: Schema.String }),
  fetch: (_topic, present) => Effect.flatMap(Directory, (directory) => directory.find([...present.keys()]))
}) {}

const fetchWith = (find: Directory["Service"]["find"]) =>
  People.layer.pipe(Layer.provide([PubSub.layerLocal, Layer.succeed(Directory, { find })]))

const emails = ({ joins, leaves }: Presence.Diff<unknown, Known>) => {
  const of = (present: Presence.Present<unknown, Known>) =>
    Array.from(present.values(), (entries) => entries.map(({ fetched }) => fetched?.email)).flat()
  return { joins: of(joins), leaves: of(leaves) }
}

const fetchFailures = Effect.map(Metric.snapshot, (all) => {
  const found = all.find(({ id }) => id === "coppice_presence_fetch_failures_total")
  return found?.type === "Counter" ? Number(found.state.count) : 0
})

describe("fetch", () => {
  it.effect("adds to lists and diffs what it knows of the keys, once for all that have come meanwhile, in order", () =>
    Effect.gen(function* () {
      const gate = yield* Latch.make(false)
      const calls: Array<ReadonlyArray<string>> = []
      const fetching = fetchWith((keys) => {
        calls.push(keys)
        return Effect.as(gate.await, new Map(keys.map((key) => [key, { email: `${key}@example.org` }])))
      })
      yield* Effect.gen(function* () {
        const diffs = yield* collected(People.diffs(1))
        yield* settle
        yield* People.track(1, "ada", ada)
        yield* settle
        yield* People.track(1, "grace", grace)
        const gone = yield* People.track(1, "gone", ada)
        yield* gone.untrack
        yield* People.track(2, "nobody follows this", ada)
        yield* settle
        assert.deepStrictEqual(calls, [["ada"]])
        assert.deepStrictEqual(diffs, [])
        yield* gate.open
        yield* settle
        assert.deepStrictEqual(calls, [["ada"], ["grace", "gone"]])
        assert.deepStrictEqual(diffs.map(emails), [
          { joins: ["ada@example.org"], leaves: [] },
          { joins: ["grace@example.org"], leaves: [] },
          { joins: ["gone@example.org"], leaves: [] },
          { joins: [], leaves: ["gone@example.org"] }
        ])
        const [entry] = yield* People.getByKey(1, "ada")
        assert.deepStrictEqual([entry?.meta, entry?.fetched], [ada, { email: "ada@example.org" }])
        assert.strictEqual((yield* People.list(1)).get("grace")?.[0]?.fetched?.email, "grace@example.org")
        const [changed] = yield* Stream.runCollect(Stream.take(People.changes(1), 1))
        assert.strictEqual(changed?.get("ada")?.[0]?.fetched?.email, "ada@example.org")
      }).pipe(Effect.scoped, Effect.provide(fetching))
    })
  )

  it.effect("is called once for all who follow changes, also if one of them leaves meanwhile", () =>
    Effect.gen(function* () {
      const gate = yield* Latch.make(false)
      let calls = 0
      const fetching = fetchWith((keys) => {
        calls++
        return Effect.as(gate.await, new Map(keys.map((key) => [key, { email: `${key}@example.org` }])))
      })
      yield* Effect.gen(function* () {
        yield* People.track(1, "ada", ada)
        const first = yield* inScope(collected(People.changes(1)))
        const others = yield* Effect.forEach(Array.from({ length: 10 }), () => collected(People.changes(1)))
        yield* settle
        yield* first.close
        yield* gate.open
        yield* settle
        yield* People.track(1, "grace", grace)
        yield* settle
        assert.strictEqual(calls, 2)
        for (const lists of others) {
          assert.deepStrictEqual(
            lists.map((present) => present.get("ada")?.[0]?.fetched?.email),
            ["ada@example.org", "ada@example.org"]
          )
        }
      }).pipe(Effect.scoped, Effect.provide(fetching))
    })
  )

  it.effect("is not called for diffs that nobody follows, and no diff comes twice to who begins while it works", () =>
    Effect.gen(function* () {
      const gate = yield* Latch.make(false)
      const calls: Array<ReadonlyArray<string>> = []
      const fetching = fetchWith((keys) => {
        calls.push(keys)
        return Effect.as(gate.await, new Map())
      })
      yield* Effect.gen(function* () {
        const lists = yield* collected(People.changes(1))
        yield* settle
        yield* People.track(1, "ada", ada)
        yield* settle
        assert.deepStrictEqual(calls, [["ada"]], "for the list alone")
        const first = yield* collected(People.diffs(1))
        yield* settle
        yield* People.track(1, "grace", grace)
        const second = yield* Effect.forkChild(People.subscribe(1), { startImmediately: true })
        yield* settle
        yield* gate.open
        yield* settle
        const { diffs, present } = yield* Fiber.join(second)
        assert.deepStrictEqual(names(present), { ada: ["Ada"], grace: ["Grace"] })
        const later = yield* collected(diffs)
        yield* People.track(1, "alan", ada)
        yield* settle
        assert.deepStrictEqual(
          first.map((diff) => [...diff.joins.keys()]),
          [["grace"], ["alan"]]
        )
        assert.deepStrictEqual(
          later.map((diff) => [...diff.joins.keys()]),
          [["alan"]]
        )
        assert.strictEqual(lists.at(-1)?.size, 3)
      }).pipe(Effect.scoped, Effect.provide(fetching))
    })
  )

  const failures: Record<string, Effect.Effect<never, string>> = {
    "that fails": Effect.fail("no database"),
    "that dies": Effect.die(new Error("a bug")),
    "that is interrupted": Effect.interrupt,
    "that throws": Effect.suspend(() => {
      throw new Error("a bug")
    }),
    "that never answers": Effect.never
  }
  for (const [name, failure] of Object.entries(failures)) {
    it.effect(`${name} leaves entries as they are, is counted, and what comes later is fetched`, () =>
      Effect.gen(function* () {
        let broken = true
        const fetching = fetchWith((keys) =>
          broken ? failure : Effect.succeed(new Map(keys.map((key) => [key, { email: `${key}@example.org` }])))
        )
        yield* Effect.gen(function* () {
          const diffs = yield* collected(People.diffs(1))
          yield* settle
          yield* People.track(1, "ada", ada)
          const listing = yield* Effect.forkChild(People.list(1), { startImmediately: true })
          yield* TestClock.adjust("5 seconds")
          yield* settle
          assert.deepStrictEqual(diffs.map(emails), [{ joins: [undefined], leaves: [] }])
          assert.deepStrictEqual(names(yield* Fiber.join(listing)), { ada: ["Ada"] })
          assert.strictEqual(yield* fetchFailures, 2)
          broken = false
          yield* People.track(1, "grace", grace)
          yield* settle
          assert.deepStrictEqual(diffs.map(emails).at(-1), { joins: ["grace@example.org"], leaves: [] })
          assert.strictEqual(yield* fetchFailures, 2)
        }).pipe(Effect.scoped, Effect.provide(fetching))
      }).pipe(
        Effect.provideService(Metric.MetricRegistry, new Map()),
        Effect.provideService(References.MinimumLogLevel, "None")
      )
    )
  }
})
