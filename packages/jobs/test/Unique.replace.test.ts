import { type NewJob, Worker } from "@coppice/jobs"
import { assert, layer } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { counts, Fresh, idOf, read, setUp, Tables } from "./fixtures/enqueue.ts"

class Index extends Worker.Service<Index>()("Index", {
  args: { page: Schema.Int, text: Schema.optionalKey(Schema.String) },
  unique: { keys: ["page"] }
}) {}

const everything: ReadonlyArray<NewJob.Replaceable> = [
  "args",
  "maxAttempts",
  "meta",
  "priority",
  "queue",
  "scheduledAt",
  "tags"
]

const unique = (replace: NewJob.Unique<"page">["replace"], more: NewJob.Unique<"page"> = {}) => ({
  unique: { keys: ["page"] as const, fields: ["worker", "args"] as const, replace, ...more }
})

const set = Effect.fnUntraced(function* (id: number, assignments: string) {
  const sql = yield* SqlClient.SqlClient
  yield* sql.unsafe(`update jobs.jobs set ${assignments} where id = ${id}`)
})

layer(Tables)("replace", (it) => {
  it.effect("changes what it names of the existing job, and nothing else", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      const first = { tags: ["a"], meta: { a: 1 }, priority: 1, queue: "one", maxAttempts: 3, scheduleIn: 60_000 }
      const second = { tags: ["b"], meta: { b: 2 }, priority: 2, queue: "two", maxAttempts: 7, scheduleIn: 30_000 }
      const columns = {
        args: { args: { page: 1, text: "new" } },
        maxAttempts: { max_attempts: 7 },
        meta: { meta: { b: 2 } },
        priority: { priority: 2 },
        queue: { queue: "two" },
        scheduledAt: { scheduled: 30_000 },
        tags: { tags: ["b"] }
      }
      for (const [index, name] of everything.entries()) {
        const id = idOf(yield* enqueue(Index.job({ page: index }, { ...first, ...unique({}) })))
        const before = yield* read(id)
        const result = yield* enqueue(
          Index.job({ page: index, text: "new" }, { ...second, ...unique({ scheduled: [name] }) })
        )
        assert.deepStrictEqual(result, { _tag: "Conflict", id, replaced: true })
        const expected = name === "args" ? { args: { page: index, text: "new" } } : columns[name]
        assert.deepStrictEqual(yield* read(id), { ...before, ...expected })
      }
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("changes nothing of a job that is in another state", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      const options = unique({ scheduled: everything, retryable: everything })
      const id = idOf(yield* enqueue(Index.job({ page: 1 }, options)))
      for (const state of ["available", "executing"]) {
        const node = "leased_by = '00000000-0000-4000-8000-000000000001'"
        yield* set(id, state === "executing" ? `state = 'executing', ${node}` : `state = '${state}'`)
        const before = yield* read(id)
        const result = yield* enqueue(Index.job({ page: 1, text: "new" }, { ...options, priority: 3 }))
        assert.deepStrictEqual(result, { _tag: "Conflict", id, replaced: false })
        assert.deepStrictEqual(yield* read(id), before)
      }
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("of when a job is due moves it between scheduled and available", () =>
    Effect.gen(function* () {
      const { enqueue, signals } = yield* setUp
      const options = unique({ scheduled: ["scheduledAt"], available: ["scheduledAt"], retryable: ["scheduledAt"] })
      const stored = (page: number, more: NewJob.Options) =>
        Effect.gen(function* () {
          const id = idOf(yield* enqueue(Index.job({ page }, { ...options, ...more })))
          const { queued, scheduled, state } = yield* read(id)
          return [id, state, scheduled, queued] as const
        })
      const [id] = yield* stored(1, { scheduleIn: 60_000 })
      yield* TestClock.setTime(10_000)
      assert.deepStrictEqual(yield* stored(1, { scheduleIn: 1_000 }), [id, "scheduled", 11_000, 0])
      assert.deepStrictEqual(signals, [])
      // It becomes available now, so it waits behind those that did earlier.
      assert.deepStrictEqual(yield* stored(1, { scheduleAt: 9_000 }), [id, "available", 9_000, 10_000])
      assert.deepStrictEqual(signals, [{ _tag: "Jobs", queue: "default" }])
      yield* TestClock.setTime(20_000)
      assert.deepStrictEqual(yield* stored(1, {}), [id, "available", 20_000, 10_000])
      assert.deepStrictEqual(yield* stored(1, { scheduleAt: 50_000 }), [id, "scheduled", 50_000, 10_000])
      yield* set(id, "state = 'retryable', attempt = 1")
      assert.deepStrictEqual(yield* stored(1, { scheduleAt: 60_000 }), [id, "retryable", 60_000, 10_000])
      assert.deepStrictEqual(yield* stored(1, {}), [id, "available", 20_000, 20_000])
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("of the queue or the priority puts an available job at its end, and wakes the queue", () =>
    Effect.gen(function* () {
      const { enqueue, signals } = yield* setUp
      const options = unique({ available: ["queue", "priority"] })
      const id = idOf(yield* enqueue(Index.job({ page: 1 }, options)))
      yield* TestClock.setTime(10_000)
      yield* enqueue(Index.job({ page: 1 }, options))
      assert.deepInclude(yield* read(id), { queue: "default", priority: 0, queued: 0 })
      yield* enqueue(Index.job({ page: 1 }, { ...options, queue: "fast" }))
      assert.deepInclude(yield* read(id), { queue: "fast", queued: 10_000 })
      yield* TestClock.setTime(20_000)
      yield* enqueue(Index.job({ page: 1 }, { ...options, queue: "fast", priority: 1 }))
      assert.deepInclude(yield* read(id), { priority: 1, queued: 20_000 })
      assert.deepStrictEqual(signals.at(-1), { _tag: "Jobs", queue: "fast" })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("leaves a job that has been tried one attempt at least", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      const options = unique({ retryable: ["maxAttempts"] })
      const id = idOf(yield* enqueue(Index.job({ page: 1 }, { ...options, maxAttempts: 10 })))
      yield* set(id, "state = 'retryable', attempt = 4")
      yield* enqueue(Index.job({ page: 1 }, { ...options, maxAttempts: 2 }))
      assert.deepInclude(yield* read(id), { attempt: 4, max_attempts: 5 })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("keeps the key with the existing job, whatever its args become", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      const options = unique({ available: ["args"] }, { period: "1 minute" })
      const id = idOf(yield* enqueue(Index.job({ page: 1, text: "old" }, options)))
      yield* TestClock.setTime(59_999)
      assert.strictEqual(idOf(yield* enqueue(Index.job({ page: 1, text: "new" }, options))), id)
      assert.deepStrictEqual((yield* read(id)).args, { page: 1, text: "new" })
      assert.strictEqual(idOf(yield* enqueue(Index.job({ page: 1, text: "newer" }, options))), id)
      // The time of the existing job goes on.
      yield* TestClock.setTime(60_000)
      assert.strictEqual((yield* enqueue(Index.job({ page: 1 }, options)))._tag, "Inserted")
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("does not give a job the args of another worker", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      class Other extends Worker.Service<Other>()("Other", { args: { page: Schema.Int, size: Schema.Int } }) {}
      const shared = unique({ available: ["args", "priority"] }, { fields: ["args"] })
      const id = idOf(yield* enqueue(Index.job({ page: 1 }, shared)))
      const result = yield* enqueue(Other.job({ page: 1, size: 2 }, { ...shared, priority: 5 }))
      assert.deepStrictEqual(result, { _tag: "Conflict", id, replaced: true })
      assert.deepInclude(yield* read(id), { worker: "Index", args: { page: 1 }, priority: 5 })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("in a batch happens in order, so the last one counts", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      const options = unique({ available: ["args", "tags"] })
      const texts = ["a", "b", "c", "d"]
      const [first, ...others] = yield* enqueueMany([
        ...texts.map((text) => Index.job({ page: 1, text }, { ...options, tags: [text] })),
        Index.job({ page: 2 }, options),
        Index.job({ page: 2, text: "z" }, options)
      ])
      const id = idOf(first ?? { _tag: "" })
      assert.deepStrictEqual(
        others.map((result) => [result._tag, result._tag === "Conflict" && result.replaced]),
        [
          ["Conflict", true],
          ["Conflict", true],
          ["Conflict", true],
          ["Inserted", false],
          ["Conflict", true]
        ]
      )
      assert.deepInclude(yield* read(id), { args: { page: 1, text: "d" }, tags: ["d"] })
      assert.deepStrictEqual(yield* counts, { jobs: 2, keys: 2 })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("of a job that is then available gives a key back that is only for scheduled ones", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      const options = unique({ scheduled: ["scheduledAt"] }, { states: "scheduled" })
      const id = idOf(yield* enqueue(Index.job({ page: 1 }, { ...options, scheduleIn: 60_000 })))
      assert.deepStrictEqual(yield* enqueue(Index.job({ page: 1 }, options)), { _tag: "Conflict", id, replaced: true })
      assert.deepStrictEqual(yield* counts, { jobs: 1, keys: 0 })
      assert.strictEqual((yield* enqueue(Index.job({ page: 1 }, options)))._tag, "Inserted")
    }).pipe(Effect.provide(Fresh))
  )
})
