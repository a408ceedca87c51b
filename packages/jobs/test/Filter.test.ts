import { assert, describe, layer } from "@effect/vitest"
import { Sandbox } from "@coppice/postgres"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Job, type Jobs, JobsConfig, Migrations } from "@coppice/jobs"
import * as Care from "../src/internal/care.ts"
import { compile } from "../src/internal/filter.ts"
import { all, insert, insertOne, Recorder, recorder } from "./fixtures/tables.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

const tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(EmptyDatabase))
/** Every test in a transaction of its own, on virtual time that begins with it. */
const fresh = Layer.effectDiscard(TestClock.setTime(0)).pipe(
  Layer.merge(recorder),
  Layer.provideMerge(Sandbox.layer),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)
const care = Effect.map(Recorder, ({ client }) => Care.make(client))

const hostile = [
  "'; drop table jobs.jobs; --",
  "$1",
  "{a,b}",
  '"',
  "\\",
  "\\'",
  "NULL",
  "a,b",
  " ",
  "%",
  "\u{1F600}",
  "\n\t"
]
const impossible = ["a\u0000b", "\uD800", "\uDC00x"]

layer(tables)("filters", (it) => {
  it.effect("match each field alone and all together, in both tables", () =>
    Effect.gen(function* () {
      const jobs = yield* care
      const one = yield* insertOne({ queue: "a", worker: "A", tags: ["x", "y"], args: { n: 1, deep: { m: [1, 2] } } })
      const two = yield* insertOne({ queue: "b", worker: "A", tags: ["y"], meta: { by: "ada" }, state: "completed" })
      const three = yield* insertOne({ queue: "a", worker: "B", args: [1, 2], state: "discarded" })
      const four = yield* insertOne({ queue: "c", worker: "C", args: null, state: "retryable" })
      const expected: ReadonlyArray<readonly [Jobs.Filter, ReadonlyArray<number>]> = [
        [{}, [four, three, two, one]],
        [{ id: two }, [two]],
        [{ id: [one, three, Job.JobId.make(4_711)] }, [three, one]],
        [{ queue: "a" }, [three, one]],
        [{ queue: ["b", "c"] }, [four, two]],
        [{ worker: "A" }, [two, one]],
        [{ worker: ["B", "C", "D"] }, [four, three]],
        [{ state: "completed" }, [two]],
        [{ state: ["available", "discarded"] }, [three, one]],
        [{ tag: "y" }, [two, one]],
        [{ args: { n: 1 } }, [one]],
        [{ args: { deep: { m: [2] } } }, [one]],
        [{ args: [2] }, [three]],
        [{ args: null }, [four]],
        [{ meta: { by: "ada" } }, [two]],
        [{ queue: "a", worker: "A", state: Job.states, tag: "x", args: {}, meta: {} }, [one]],
        [{ queue: "a", worker: "C" }, []]
      ]
      for (const [filter, ids] of expected) {
        const found = yield* jobs.list(filter)
        assert.deepStrictEqual(
          found.map((job): number => job.id),
          ids,
          JSON.stringify(filter)
        )
      }
    }).pipe(Effect.provide(fresh))
  )

  it.effect("take any text for what it is", () =>
    Effect.gen(function* () {
      const jobs = yield* care
      for (const text of hostile) {
        yield* insertOne({ queue: text, worker: text, tags: [text], args: { [text]: text }, meta: { [text]: [text] } })
      }
      for (const text of hostile) {
        const filters: ReadonlyArray<Jobs.Filter> = [
          { queue: text },
          { worker: [text, "none"] },
          { tag: text },
          { args: { [text]: text } },
          { meta: { [text]: [text] } }
        ]
        for (const filter of filters) {
          assert.lengthOf(yield* jobs.list(filter), 1, JSON.stringify(filter))
        }
      }
      assert.lengthOf(yield* jobs.list({ queue: hostile }), hostile.length)
      assert.strictEqual(yield* jobs.delete({ queue: hostile }), hostile.length)
    }).pipe(Effect.provide(fresh))
  )

  it.effect("that no job can match change nothing, and fail for nobody", () =>
    Effect.gen(function* () {
      const jobs = yield* care
      // What the driver makes of half a surrogate pair is this, and not the same.
      yield* insert({ queue: "\uFFFD", tags: ["\uFFFD"], count: 2 })
      yield* insert({ queue: "\uFFFD", state: "completed" })
      const before = yield* all
      const nothing: ReadonlyArray<Jobs.Filter> = [
        { id: [] },
        { queue: [] },
        { worker: [] },
        { state: [] },
        ...impossible.flatMap((text): ReadonlyArray<Jobs.Filter> => [
          { queue: text },
          { worker: [text] },
          { tag: text },
          { args: { a: [text] } },
          { meta: { [text]: 1 } }
        ]),
        // Callers without types.
        { id: Number.NaN as Job.JobId },
        { id: [1.5, Number.POSITIVE_INFINITY, 2 ** 60].map((id) => id as Job.JobId) },
        { state: "'; drop table jobs.jobs; --" as Job.State }
      ]
      for (const filter of nothing) {
        assert.deepStrictEqual(yield* jobs.list(filter), [])
        assert.deepStrictEqual(yield* jobs.cancel(filter), { cancelled: 0, requested: 0 })
        assert.deepStrictEqual(yield* jobs.retry(filter), { retried: 0, conflicts: 0 })
        assert.strictEqual(yield* jobs.delete(filter), 0)
      }
      assert.deepStrictEqual(yield* all, before)
      assert.lengthOf(yield* jobs.list({ queue: ["a\u0000", "\uFFFD"] }), 3)
    }).pipe(Effect.provide(fresh))
  )

  describe("of states", () => {
    it.effect("look only into the table that has them", () =>
      Effect.sync(() => {
        const active = compile({ state: ["available", "retryable"] }, 1, Job.states)
        assert.strictEqual(active.active, "true and j.state in ('available', 'retryable')")
        assert.isUndefined(active.finished)
        const finished = compile({ state: "discarded", queue: "q" }, 3, Job.states)
        assert.isUndefined(finished.active)
        assert.strictEqual(finished.finished, "true and j.state in ('discarded') and j.queue = any($3::text[])")
        assert.deepStrictEqual(finished.params, [["q"]])
        // What an operation does not do, no filter can ask for.
        assert.isUndefined(compile({ state: "executing" }, 1, ["available", "completed"]).active)
      })
    )
  })
})
