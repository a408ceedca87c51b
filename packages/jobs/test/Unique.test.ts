import { Job, type NewJob, Worker } from "@coppice/jobs"
import { assert, describe, layer } from "@effect/vitest"
import { Duration, Effect, Schema } from "effect"
import { TestClock } from "effect/testing"
import { releaseKeys } from "../src/internal/columns.ts"
import { Anything, counts, Fresh, idOf, read, setUp, Sync, Tables } from "./fixtures/enqueue.ts"

class Report extends Worker.Service<Report>()("Report", {
  args: { day: Schema.String, format: Schema.optionalKey(Schema.String) }
}) {}

const report = (unique: NewJob.Unique<"day">, options: NewJob.Options = {}) =>
  Report.job({ day: "monday" }, { ...options, unique })

/** Moves a job to another state, as the engine does: its key is given back if it is not for that state. */
const move = Effect.fnUntraced(function* (id: number, state: Job.State) {
  const { database } = yield* setUp
  const done = Job.finishedStates.some((finished) => finished === state)
  const moved = done
    ? `delete from jobs.jobs where id = ${id} returning id, unique_key, '${state}'::text as state`
    : `update jobs.jobs set state = '${state}',
         leased_by = ${state === "executing" ? "'00000000-0000-4000-8000-000000000001'" : "null"}
        where id = ${id} returning id, unique_key, state`
  yield* database.timed(`with moved as (${moved}) ${releaseKeys(database.schema, "moved")}`)
})

layer(Tables)("unique jobs", (it) => {
  it.effect("are inserted once, and the others learn which one is in the way", () =>
    Effect.gen(function* () {
      const { enqueue, enqueueMany, events } = yield* setUp
      const id = idOf(yield* enqueue(report({})))
      const conflict = { _tag: "Conflict" as const, id, replaced: false }
      assert.deepStrictEqual(yield* enqueue(report({})), conflict)
      assert.deepStrictEqual(yield* enqueueMany([report({}), report({})]), [conflict, conflict])
      assert.deepStrictEqual(yield* counts, { jobs: 1, keys: 1 })
      assert.deepStrictEqual(
        events.map((event) => event._tag === "Enqueued" && [event.id, event.conflict]),
        [
          [id, false],
          [id, true],
          [id, true],
          [id, true]
        ]
      )
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("of one batch conflict with the first of them", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      const [first, second, third] = yield* enqueueMany([report({}), Sync.job({ account: 1 }), report({})])
      assert.strictEqual(first?._tag, "Inserted")
      assert.strictEqual(second?._tag, "Inserted")
      assert.deepStrictEqual(third, { _tag: "Conflict", id: idOf(first ?? { _tag: "" }), replaced: false })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("are not, when they say so", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      const jobs = [1, 2, 3].map(() => Sync.job({ account: 1 }, { unique: false }))
      const results = yield* enqueueMany([Sync.job({ account: 1 }), ...jobs])
      assert.isTrue(results.every(({ _tag }) => _tag === "Inserted"))
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("that do not wait are inserted, or conflict, where nobody is just inserting the same", () =>
    Effect.gen(function* () {
      const { enqueue, enqueueMany } = yield* setUp
      const id = idOf(yield* enqueue(report({ onBusy: "skip" })))
      assert.deepStrictEqual(yield* enqueue(report({ onBusy: "error" })), { _tag: "Conflict", id, replaced: false })
      const results = yield* enqueueMany([
        report({ onBusy: "skip" }),
        report({ onBusy: "error" }, { queue: "a" }),
        report({}, { queue: "b" }),
        report({ onBusy: "skip" }, { queue: "b" }),
        report({ onBusy: "skip", replace: { available: ["priority"] } }, { priority: 1 })
      ])
      assert.deepStrictEqual(
        results.map(({ _tag }) => _tag),
        ["Conflict", "Inserted", "Inserted", "Conflict", "Conflict"]
      )
      assert.strictEqual((yield* read(id)).priority, 1)
      assert.deepStrictEqual(yield* counts, { jobs: 3, keys: 3 })
    }).pipe(Effect.provide(Fresh))
  )

  describe("fields and keys", () => {
    it.effect("decide what must be the same, and no choice of them is like another", () =>
      Effect.gen(function* () {
        const { enqueueMany } = yield* setUp
        const args: Schema.Json = { a: 1, b: { c: [1, "x"], d: null } }
        const uniques: ReadonlyArray<NewJob.Unique<string>> = [
          {},
          { fields: ["worker"] },
          { fields: ["queue"] },
          { fields: ["args"] },
          { fields: ["meta"] },
          { fields: ["worker", "queue"] },
          { fields: ["worker", "args"] },
          { fields: ["worker", "queue", "args", "meta"] },
          { keys: ["a"] },
          { keys: ["b"] },
          { keys: ["a", "b"] },
          { keys: ["c"] },
          { keys: ["a", "c"] },
          { fields: ["args"], keys: ["a"] }
        ]
        const results = yield* enqueueMany(uniques.map((unique) => Anything.job(args, { unique })))
        assert.deepStrictEqual(new Set(results.map(({ _tag }) => _tag)), new Set(["Inserted"]))
        const same = [
          [{ fields: ["args", "queue", "worker"] }, { b: { d: null, c: [1, "x"] }, a: 1 }, 0],
          [{ fields: ["worker"] }, { other: 1 }, 1],
          [{ keys: ["b", "a", "b"] }, { a: 1, b: { c: [1, "x"], d: null }, z: 1 }, 10],
          [{ keys: ["c"] }, { a: 2 }, 11]
        ] as const
        for (const [unique, value, index] of same) {
          const [result] = yield* enqueueMany([Anything.job(value, { unique })])
          assert.deepInclude(result, { _tag: "Conflict", id: idOf(results[index] ?? { _tag: "" }) })
        }
        const others: ReadonlyArray<readonly [NewJob.Unique<string>, Schema.Json]> = [
          [{}, { a: 1, b: { c: ["x", 1], d: null } }],
          [{}, { a: "1", b: { c: [1, "x"], d: null } }],
          [{}, { a: 1, b: { c: [1, "x"] } }],
          [{ keys: ["c"] }, { c: null }],
          [{ keys: ["a"] }, { a: [1] }]
        ]
        for (const [unique, value] of others) {
          const [result] = yield* enqueueMany([Anything.job(value, { unique })])
          assert.strictEqual(result?._tag, "Inserted", JSON.stringify([unique, value]))
        }
      }).pipe(Effect.provide(Fresh))
    )

    it.effect("keep the jobs of other workers and queues apart, unless they leave them out", () =>
      Effect.gen(function* () {
        const { enqueueMany } = yield* setUp
        const tags = Effect.map(
          enqueueMany([
            report({}),
            report({}, { queue: "other" }),
            report({ fields: ["args"] }),
            report({ fields: ["args"] }, { queue: "other" }),
            report({ fields: ["meta"] }, { meta: { a: 1 } }),
            report({ fields: ["meta"] }, { meta: { a: 2 } })
          ]),
          (results) => results.map(({ _tag }) => _tag)
        )
        assert.deepStrictEqual(yield* tags, ["Inserted", "Inserted", "Inserted", "Conflict", "Inserted", "Inserted"])
      }).pipe(Effect.provide(Fresh))
    )
  })

  describe("states", () => {
    const groups = {
      incomplete: ["scheduled", "available", "executing", "retryable"],
      scheduled: ["scheduled"],
      successful: ["scheduled", "available", "executing", "retryable", "completed"],
      all: Job.states
    } as const
    for (const [group, covered] of Object.entries(groups)) {
      it.effect(`${group} keep others out while the job is ${covered.join(", ")}`, () =>
        Effect.gen(function* () {
          const { enqueue } = yield* setUp
          const states = group as keyof typeof groups
          for (const state of Job.states) {
            const day = { day: `${group} ${state}` }
            const job = Report.job(day, { unique: { states }, scheduleIn: "1 minute" })
            const id = idOf(yield* enqueue(job))
            if (state !== "scheduled") yield* move(id, state)
            const expected = covered.some((each) => each === state) ? "Conflict" : "Inserted"
            assert.strictEqual((yield* enqueue(job))._tag, expected, state)
          }
        }).pipe(Effect.provide(Fresh))
      )
    }

    it.effect("default to what is not finished, and with a period to what did not fail", () =>
      Effect.gen(function* () {
        const { enqueue } = yield* setUp
        const bits = (unique: NewJob.Unique<"day">, day: string) =>
          Effect.gen(function* () {
            return (yield* read(idOf(yield* enqueue(Report.job({ day }, { unique }))))).unique_states
          })
        assert.strictEqual(yield* bits({}, "a"), 15)
        assert.strictEqual(yield* bits({ period: Duration.infinity }, "b"), 15)
        assert.strictEqual(yield* bits({ period: "1 minute" }, "c"), 31)
        assert.strictEqual(yield* bits({ states: ["scheduled", "available"] }, "d"), 3)
        assert.strictEqual(yield* bits({ states: ["cancelled", "scheduled"] }, "e"), 33)
      }).pipe(Effect.provide(Fresh))
    )

    it.effect("that a new job is not in do not give it the key, but keep it out", () =>
      Effect.gen(function* () {
        const { enqueue, enqueueMany } = yield* setUp
        const now = report({ states: "scheduled" })
        const later = report({ states: "scheduled" }, { scheduleIn: 1 })
        const many = (jobs: ReadonlyArray<NewJob.NewJob>) =>
          Effect.map(enqueueMany(jobs), (results) => results.map(({ _tag }) => _tag))
        assert.strictEqual((yield* enqueue(now))._tag, "Inserted")
        assert.strictEqual((yield* enqueue(now))._tag, "Inserted")
        assert.deepStrictEqual(yield* many([now, now]), ["Inserted", "Inserted"])
        assert.deepStrictEqual(yield* many([now, later, now, later]), ["Inserted", "Inserted", "Conflict", "Conflict"])
        assert.strictEqual((yield* enqueue(now))._tag, "Conflict")
        assert.strictEqual((yield* enqueue(later))._tag, "Conflict")
      }).pipe(Effect.provide(Fresh))
    )
  })

  describe("period", () => {
    it.effect("ends exactly then, and begins again with each job that is inserted", () =>
      Effect.gen(function* () {
        const { enqueue } = yield* setUp
        const tag = Effect.map(enqueue(report({ period: "1 minute" })), ({ _tag }) => _tag)
        const expected = [
          [0, "Inserted"],
          [59_999, "Conflict"],
          [60_000, "Inserted"],
          [60_001, "Conflict"],
          [119_999, "Conflict"],
          [120_000, "Inserted"],
          [500_000, "Inserted"],
          [559_999, "Conflict"]
        ] as const
        for (const [at, outcome] of expected) {
          yield* TestClock.setTime(at)
          assert.strictEqual(yield* tag, outcome, `${at}`)
        }
        assert.deepStrictEqual(yield* counts, { jobs: 4, keys: 1 })
      }).pipe(Effect.provide(Fresh))
    )

    it.effect("of the job that has the key is the one that counts", () =>
      Effect.gen(function* () {
        const { enqueue } = yield* setUp
        yield* enqueue(report({ period: "1 hour" }))
        yield* TestClock.adjust("30 minutes")
        assert.strictEqual((yield* enqueue(report({ period: "1 second" })))._tag, "Conflict")
        yield* TestClock.adjust("30 minutes")
        assert.strictEqual((yield* enqueue(report({ period: "1 second" })))._tag, "Inserted")
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* enqueue(report({})))._tag, "Inserted")
        yield* TestClock.adjust("1000 days")
        assert.strictEqual((yield* enqueue(report({})))._tag, "Conflict")
      }).pipe(Effect.provide(Fresh))
    )

    it.effect("goes on when the job has completed, and ends when it failed", () =>
      Effect.gen(function* () {
        const { enqueue } = yield* setUp
        const job = report({ period: "1 hour" })
        const first = idOf(yield* enqueue(job))
        yield* move(first, "completed")
        assert.deepInclude(yield* enqueue(job), { _tag: "Conflict", id: first })
        yield* TestClock.adjust("1 hour")
        const second = idOf(yield* enqueue(job))
        assert.notStrictEqual(second, first)
        yield* move(second, "discarded")
        assert.strictEqual((yield* enqueue(job))._tag, "Inserted")
      }).pipe(Effect.provide(Fresh))
    )

    it.effect("that is over does not let the old job give the key of the new one back", () =>
      Effect.gen(function* () {
        const { enqueue } = yield* setUp
        const job = report({ period: "1 hour", states: "incomplete" })
        const first = idOf(yield* enqueue(job))
        yield* TestClock.adjust("1 hour")
        const second = idOf(yield* enqueue(job))
        yield* move(first, "completed")
        assert.deepInclude(yield* enqueue(job), { _tag: "Conflict", id: second })
      }).pipe(Effect.provide(Fresh))
    )
  })

  it.effect("refuse options that make no sense, and say where", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      // What a caller without types may write.
      const path = (unique: object) =>
        Effect.map(Effect.flip(enqueue(report(unique))), (error) => (error._tag === "InvalidJob" ? error.path : ""))
      assert.strictEqual(yield* path({ perod: 1 }), "options.unique.perod")
      for (const period of [0, -1, "0 seconds", "soon", Number.NaN, 9e15]) {
        assert.strictEqual(yield* path({ period }), "options.unique.period", `${period}`)
      }
      assert.strictEqual(yield* path({ fields: [] }), "options.unique.fields")
      assert.strictEqual(yield* path({ fields: ["worker", "arg"] }), "options.unique.fields[1]")
      assert.strictEqual(yield* path({ keys: [] }), "options.unique.keys")
      assert.strictEqual(yield* path({ keys: ["dya"] }), "options.unique.keys")
      assert.strictEqual(yield* path({ keys: ["day"], fields: ["worker"] }), "options.unique.keys")
      for (const states of ["active", [], ["available"], ["scheduled", "executing"], ["scheduled", "done"], 1]) {
        assert.strictEqual(yield* path({ states }), "options.unique.states", JSON.stringify(states))
      }
      assert.strictEqual(yield* path({ onBusy: "fail" }), "options.unique.onBusy")
      assert.strictEqual(yield* path({ replace: { executing: ["args"] } }), "options.unique.replace.executing")
      assert.strictEqual(yield* path({ replace: { available: ["state"] } }), "options.unique.replace.available[0]")
      const number = yield* Effect.flip(enqueue(Anything.job({}, { unique: { keys: [1 as never] } })))
      assert.include(number.message, "options.unique.keys[0] must be the name of a field of the args")
      const list = yield* Effect.flip(enqueue(Anything.job([1], { unique: { keys: ["a"] } })))
      assert.include(list.message, "options.unique.keys are fields of the args, which are no object")
      assert.deepStrictEqual(yield* counts, { jobs: 0, keys: 0 })
    }).pipe(Effect.provide(Fresh))
  )
})
