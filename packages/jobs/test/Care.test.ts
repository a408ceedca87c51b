import { assert, describe, layer } from "@effect/vitest"
import { Sandbox } from "@coppice/postgres"
import { DateTime, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { Job, JobsConfig, Migrations } from "@coppice/jobs"
import * as Care from "../src/internal/care.ts"
import { all, insert, insertOne, key, keys, Recorder, recorder } from "./fixtures/tables.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

const tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(EmptyDatabase))
/** Every test in a transaction of its own, on virtual time that begins with it. */
const fresh = Layer.effectDiscard(TestClock.setTime(0)).pipe(
  Layer.merge(recorder),
  Layer.provideMerge(Sandbox.layer),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)
const care = Effect.map(Recorder, ({ client }) => Care.make(client))
const statesOf = Effect.map(all, (rows) => rows.map((row) => row.state))

layer(tables)("care", (it) => {
  describe("get", () => {
    it.effect("finds jobs that are active and jobs that are finished", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        yield* TestClock.setTime(1_000)
        const one = yield* insertOne({ args: { to: "ada" }, meta: { n: 1 }, tags: ["a", "b"] })
        const two = yield* insertOne({ state: "completed" })
        const first = yield* jobs.get(one)
        assert.strictEqual(first.state, "available")
        assert.deepStrictEqual(first.args, { to: "ada" })
        assert.deepStrictEqual(first.meta, { n: 1 })
        assert.deepStrictEqual(first.tags, ["a", "b"])
        assert.strictEqual(DateTime.toEpochMillis(first.insertedAt), 1_000)
        assert.isUndefined(first.finishedAt)
        const second = yield* jobs.get(two)
        assert.strictEqual(second.state, "completed")
        assert.isUndefined(second.result)
        assert.strictEqual(second.finishedAt && DateTime.toEpochMillis(second.finishedAt), 1_000)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("fails for a number that no job has, or could have", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        for (const number of [0, -1, 4711, 1.5, Number.NaN, Number.MAX_SAFE_INTEGER, 1e300]) {
          // A caller without types.
          const error = yield* Effect.flip(jobs.get(number as Job.JobId))
          assert.strictEqual(error._tag, "JobNotFound")
        }
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("list", () => {
    it.effect("has active and finished jobs, newest first, and goes on after the last of an earlier list", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const ids: Array<number> = []
        for (const state of ["available", "completed", "executing", "discarded", "scheduled"] as const) {
          ids.unshift(yield* insertOne({ state }))
        }
        assert.deepStrictEqual(
          (yield* jobs.list()).map((job): number => job.id),
          ids
        )
        const page = yield* jobs.list({}, { limit: 2 })
        const next = yield* jobs.list({}, { limit: 2, before: page.at(-1)?.id })
        assert.deepStrictEqual(
          [...page, ...next].map((job): number => job.id),
          ids.slice(0, 4)
        )
      }).pipe(Effect.provide(fresh))
    )

    it.effect("answers at most 100 unless it is told otherwise", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        yield* insert({ count: 80 })
        yield* insert({ state: "completed", count: 80 })
        assert.lengthOf(yield* jobs.list(), 100)
        assert.lengthOf(yield* jobs.list({}, { limit: 150 }), 150)
        assert.lengthOf(yield* jobs.list({}, { limit: Number.POSITIVE_INFINITY }), 160)
        for (const limit of [0, -1, Number.NaN]) assert.lengthOf(yield* jobs.list({}, { limit }), 0)
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("cancel", () => {
    it.effect("ends what waits, asks what runs, and leaves what has finished", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const { events, signals } = yield* Recorder
        for (const state of Job.states) yield* insert({ state })
        assert.deepStrictEqual(yield* jobs.cancel({}, "not needed"), { cancelled: 3, requested: 1 })
        const after = (yield* jobs.list()).toReversed()
        assert.deepStrictEqual(
          after.map((job) => job.state),
          ["cancelled", "cancelled", "executing", "cancelled", "completed", "cancelled", "discarded"]
        )
        const ended = after.find((job) => job.state === "cancelled" && job.cancelRequestedAt !== undefined)
        assert.deepStrictEqual(ended?.errors, [
          { at: "1970-01-01T00:00:00.000Z", attempt: 0, kind: "cancelled", message: "not needed" }
        ])
        assert.deepStrictEqual(signals, [{ _tag: "Cancel" }])
        assert.deepStrictEqual(
          events.map((event) => event._tag === "Cancelled" && event.reason),
          ["not needed", "not needed", "not needed"]
        )
        // Asked twice, it keeps the first time, and nothing ends again.
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* jobs.cancel({}), { cancelled: 0, requested: 1 })
        const running = (yield* jobs.list({ state: "executing" }))[0]
        assert.strictEqual(running?.cancelRequestedAt && DateTime.toEpochMillis(running.cancelRequestedAt), 0)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("keeps a reason that the database could not store, in a form that it can", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const one = yield* insertOne()
        yield* jobs.cancel({ id: one }, "a\u0000b\uD800c")
        assert.strictEqual((yield* jobs.get(one)).errors[0]?.message, "a\uFFFDb\uFFFDc")
      }).pipe(Effect.provide(fresh))
    )

    it.effect("gives unique keys back, unless they are for cancelled jobs too", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const a = yield* insertOne()
        const b = yield* insertOne()
        yield* key(a, { key: "a", states: 15 })
        yield* key(b, { key: "b", states: 127 })
        yield* jobs.cancel({})
        assert.deepStrictEqual(yield* keys, { b })
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("retry", () => {
    it.effect("makes what waits and what has finished available, and leaves what runs", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const { events, signals } = yield* Recorder
        for (const state of Job.states) yield* insert({ state })
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* jobs.retry({}), { retried: 5, conflicts: 0 })
        assert.deepStrictEqual(yield* statesOf, [
          "available",
          "available",
          "executing",
          "available",
          "available",
          "available",
          "available"
        ])
        const records = yield* jobs.list({ state: "available" })
        const due = records.map((job) => DateTime.toEpochMillis(job.scheduledAt))
        assert.deepStrictEqual(due, [3_600_000, 3_600_000, 3_600_000, 3_600_000, 0, 3_600_000])
        assert.isTrue(signals.every((signal) => signal._tag === "Jobs" && signal.queue === "default"))
        assert.deepStrictEqual(
          events.map((event) => event._tag),
          ["Retried", "Retried", "Retried", "Retried", "Retried"]
        )
      }).pipe(Effect.provide(fresh))
    )

    it.effect("gives a job that has none left one attempt more, under its number and with its errors", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const used = yield* insertOne({ state: "discarded", attempt: 3, maxAttempts: 3 })
        const left = yield* insertOne({ state: "available", attempt: 1, maxAttempts: 3 })
        yield* jobs.cancel({ id: left }, "why")
        yield* jobs.retry({})
        const first = yield* jobs.get(used)
        assert.deepStrictEqual([first.attempt, first.maxAttempts], [3, 4])
        const second = yield* jobs.get(left)
        assert.deepStrictEqual([second.attempt, second.maxAttempts], [1, 3])
        assert.strictEqual(second.errors[0]?.message, "why")
        assert.isUndefined(second.cancelRequestedAt)
        assert.isUndefined(second.finishedAt)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("does not take a unique key from another job, and brings the others of the batch back", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const old = yield* insertOne({ state: "completed" })
        const free = yield* insertOne({ state: "completed" })
        const plain = yield* insertOne({ state: "discarded" })
        const current = yield* insertOne()
        yield* key(old, { key: "taken", states: 15, held: false })
        yield* key(free, { key: "free", states: 15, held: false })
        yield* key(current, { key: "taken", states: 15 })
        assert.deepStrictEqual(yield* jobs.retry({}), { retried: 2, conflicts: 1 })
        assert.strictEqual((yield* jobs.get(old)).state, "completed")
        assert.strictEqual((yield* jobs.get(free)).state, "available")
        assert.strictEqual((yield* jobs.get(plain)).state, "available")
        assert.deepStrictEqual(yield* keys, { taken: current, free })
      }).pipe(Effect.provide(fresh))
    )

    it.effect("brings the younger of two jobs with one key back", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const old = yield* insertOne({ state: "completed" })
        const young = yield* insertOne({ state: "discarded" })
        yield* key(old, { key: "k", states: 15, held: false })
        yield* key(young, { key: "k", states: 15, held: false })
        assert.deepStrictEqual(yield* jobs.retry({}), { retried: 1, conflicts: 1 })
        assert.deepStrictEqual(yield* keys, { k: young })
        assert.strictEqual((yield* jobs.get(old)).state, "completed")
      }).pipe(Effect.provide(fresh))
    )

    it.effect("needs no key that is over or for other states, and takes one that is over from another", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const mine = yield* insertOne({ state: "completed" })
        const over = yield* insertOne({ state: "completed" })
        const other = yield* insertOne({ state: "completed" })
        const steals = yield* insertOne({ state: "completed" })
        const holder = yield* insertOne()
        yield* key(mine, { key: "mine", states: 127 })
        yield* key(over, { key: "over", states: 127, until: new Date(60_000), held: false })
        yield* key(other, { key: "other", states: 16 })
        yield* key(steals, { key: "steals", states: 15, until: new Date(7_200_000), held: false })
        yield* key(holder, { key: "steals", states: 127, until: new Date(3_600_000) })
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* jobs.retry({ state: "completed" }), { retried: 4, conflicts: 0 })
        assert.deepStrictEqual(yield* keys, { mine, steals })
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("delete", () => {
    it.effect("removes everything but what runs, with its unique keys", () =>
      Effect.gen(function* () {
        const jobs = yield* care
        const { events } = yield* Recorder
        for (const state of Job.states) {
          const job = yield* insertOne({ state })
          yield* key(job, { key: state, states: 127 })
        }
        assert.strictEqual(yield* jobs.delete({}), 6)
        assert.deepStrictEqual(yield* statesOf, ["executing"])
        assert.deepStrictEqual(Object.keys(yield* keys), ["executing"])
        assert.lengthOf(events, 6)
      }).pipe(Effect.provide(fresh))
    )
  })

  it.effect("does nothing, and tells nobody, in a transaction that rolls back", () =>
    Effect.gen(function* () {
      const jobs = yield* care
      const { events, signals } = yield* Recorder
      const sql = yield* SqlClient.SqlClient
      for (const state of Job.states) yield* insert({ state })
      const before = yield* all
      const change = Effect.gen(function* () {
        yield* jobs.cancel({})
        yield* jobs.retry({})
        yield* jobs.delete({})
        assert.deepStrictEqual(yield* statesOf, ["executing"])
        return yield* Effect.fail("no")
      })
      assert.strictEqual(yield* Effect.flip(sql.withTransaction(change)), "no")
      assert.deepStrictEqual(yield* all, before)
      assert.deepStrictEqual(events, [])
      assert.deepStrictEqual(signals, [])
    }).pipe(Effect.provide(fresh))
  )
})
