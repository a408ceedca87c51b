import { type NewJob, Worker } from "@coppice/jobs"
import { assert, describe, layer } from "@effect/vitest"
import { DateTime, Duration, Effect, type Schema } from "effect"
import { TestClock } from "effect/testing"
import { Anything, counts, Fresh, idOf, Mail, read, setUp, Sync, Tables } from "./fixtures/enqueue.ts"

layer(Tables)("enqueue", (it) => {
  it.effect("stores what the worker says of its jobs, and adds what is said of this one", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      yield* TestClock.setTime(5_000)
      const first = yield* read(idOf(yield* enqueue(Sync.job({ account: 7 }))))
      assert.deepInclude(first, {
        state: "available",
        queue: "sync",
        worker: "Sync",
        args: { account: 7 },
        args_version: 1,
        priority: 2,
        attempt: 0,
        max_attempts: 5,
        tags: ["io"],
        meta: { team: "a" },
        partition_key: "account 1",
        trace: null,
        inserted: 5_000,
        scheduled: 5_000,
        queued: 5_000
      })
      const options = {
        tags: ["x", "io"],
        meta: { by: "ada" },
        queue: "slow",
        priority: 0,
        maxAttempts: 1,
        partition: "p"
      }
      const second = yield* read(idOf(yield* enqueue(Sync.job({ account: 8, full: true }, options))))
      assert.deepInclude(second, {
        queue: "slow",
        args: { account: 8, full: true },
        priority: 0,
        max_attempts: 1,
        tags: ["io", "x"],
        meta: { team: "a", by: "ada" },
        partition_key: "p"
      })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("makes a job available when it is due, and scheduled when it is not", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      yield* TestClock.setTime(10_000)
      const stored = (options: NewJob.Options) =>
        Effect.gen(function* () {
          const { queued, scheduled, state } = yield* read(idOf(yield* enqueue(Mail.job({ to: "ada" }, options))))
          assert.strictEqual(queued, 10_000)
          return [state, scheduled]
        })
      assert.deepStrictEqual(yield* stored({ scheduleIn: 0 }), ["available", 10_000])
      assert.deepStrictEqual(yield* stored({ scheduleIn: 1 }), ["scheduled", 10_001])
      assert.deepStrictEqual(yield* stored({ scheduleIn: "5 minutes" }), ["scheduled", 310_000])
      assert.deepStrictEqual(yield* stored({ scheduleIn: Duration.days(365 * 100_000) }), [
        "scheduled",
        10_000 + 365 * 100_000 * 86_400_000
      ])
      assert.deepStrictEqual(yield* stored({ scheduleAt: 10_000 }), ["available", 10_000])
      assert.deepStrictEqual(yield* stored({ scheduleAt: 10_001 }), ["scheduled", 10_001])
      assert.deepStrictEqual(yield* stored({ scheduleAt: new Date(1) }), ["available", 1])
      assert.deepStrictEqual(yield* stored({ scheduleAt: "2026-11-23T10:00:00.123Z" }), [
        "scheduled",
        Date.UTC(2026, 10, 23, 10, 0, 0, 123)
      ])
      assert.deepStrictEqual(yield* stored({ scheduleAt: DateTime.makeUnsafe(8.64e15) }), ["scheduled", 8.64e15])
      assert.deepStrictEqual(yield* stored({ scheduleAt: Date.UTC(-4000, 0) }), ["available", Date.UTC(-4000, 0)])
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("refuses what cannot be stored or run, and says where", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      // What a caller without types may write.
      const path = (options: object, args: object = { to: "ada" }) =>
        Effect.map(Effect.flip(enqueue(Mail.job(args as { to: string }, options))), (error) => {
          assert.strictEqual(error._tag, "InvalidJob")
          assert.include(error.message, "A job for Mail cannot be enqueued: ")
          return error._tag === "InvalidJob" ? error.path : ""
        })
      for (const priority of [-1, 10, 0.5, Number.NaN, "1"]) {
        assert.strictEqual(yield* path({ priority }), "options.priority")
      }
      for (const maxAttempts of [0, -1, 1.5, Infinity, 2 ** 31]) {
        assert.strictEqual(yield* path({ maxAttempts }), "options.maxAttempts")
      }
      for (const queue of ["", "q".repeat(128), "\u0000", "\uD800", 1]) {
        assert.strictEqual(yield* path({ queue }), "options.queue")
      }
      for (const partition of ["", "p".repeat(256), "\u0000"]) {
        assert.strictEqual(yield* path({ partition }), "options.partition")
      }
      assert.strictEqual(yield* path({ tags: ["ok", "\u0000"] }), "options.tags[1]")
      assert.strictEqual(yield* path({ tags: ["\uDC00"] }), "options.tags[0]")
      assert.strictEqual(yield* path({ tags: [1] }), "options.tags[0]")
      assert.strictEqual(yield* path({ tags: ["a", ""] }), "options.tags[1]")
      assert.strictEqual(yield* path({ tags: ["t".repeat(256)] }), "options.tags[0]")
      assert.strictEqual(yield* path({ meta: { x: "\u0000" } }), "meta.x")
      assert.strictEqual(yield* path({ meta: { "a b": ["\uD800"] } }), 'meta["a b"][0]')
      assert.strictEqual(yield* path({ meta: { "\u0000": 1 } }), 'meta["\\u0000"]')
      assert.strictEqual(yield* path({ meta: { n: 1n } }), "meta.n")
      assert.strictEqual(yield* path({ meta: { n: Number.NaN } }), "meta.n")
      assert.strictEqual(yield* path({ meta: { at: new Date(0) } }), "meta.at")
      for (const scheduleIn of [-1, "-1 seconds", Duration.infinity, "Infinity", "soon", 8.1e15]) {
        assert.strictEqual(yield* path({ scheduleIn }), "options.scheduleIn")
      }
      for (const scheduleAt of [new Date(Number.NaN), "tomorrow", Number.NaN, Date.UTC(-4800, 0), 8.65e15]) {
        assert.strictEqual(yield* path({ scheduleAt }), "options.scheduleAt")
      }
      assert.strictEqual(yield* path({ scheduleAt: 0, scheduleIn: 0 }), "options.scheduleIn")
      assert.strictEqual(yield* path({}, { to: "a\u0000b" }), "args.to")
      assert.strictEqual(yield* path({}, { to: 1 }), "args")
      assert.deepStrictEqual(yield* counts, { jobs: 0, keys: 0 })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("refuses names of workers that the table does not hold", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      for (const name of ["", "w".repeat(256), "a\u0000"]) {
        const Nameless = class extends Worker.Service<typeof name>()(name, { args: {} }) {}
        const error = yield* Effect.flip(enqueue(Nameless.job({})))
        assert.strictEqual(error._tag === "InvalidJob" && error.path, "worker")
      }
      const Long = class extends Worker.Service<string>()("𝒲".repeat(255), { args: {}, queue: "𝓠".repeat(127) }) {}
      assert.strictEqual((yield* enqueue(Long.job({})))._tag, "Inserted")
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("inserts the mates of jobs that it refuses, and answers in order", () =>
    Effect.gen(function* () {
      const { enqueueMany, events, signals } = yield* setUp
      const results = yield* enqueueMany([
        Mail.job({ to: "ada" }),
        Mail.job({ to: "a\u0000" }),
        Sync.job({ account: 1 }),
        Mail.job({ to: "b\uD800" }),
        Mail.job({ to: "grace" }, { priority: 11 }),
        Mail.job({ to: "later" }, { scheduleIn: 1, queue: "later" }),
        Sync.job({ account: 1, full: true }),
        Mail.job({ to: "joan" })
      ])
      assert.deepStrictEqual(
        results.map(({ _tag }) => _tag),
        ["Inserted", "Rejected", "Inserted", "Rejected", "Rejected", "Inserted", "Conflict", "Inserted"]
      )
      const paths = results.map((result) =>
        result._tag === "Rejected" && result.error._tag === "InvalidJob" ? result.error.path : ""
      )
      assert.deepStrictEqual(paths, ["", "args.to", "", "args.to", "options.priority", "", "", ""])
      const ids = results.filter(({ _tag }) => _tag === "Inserted").map(idOf)
      assert.deepStrictEqual(ids, ids.toSorted())
      const stored = yield* Effect.forEach(ids, read)
      assert.deepStrictEqual(
        stored.map(({ args }) => args),
        [{ to: "ada" }, { account: 1 }, { to: "later" }, { to: "joan" }]
      )
      assert.deepStrictEqual(signals.map((signal) => (signal._tag === "Jobs" ? signal.queue : "")).toSorted(), [
        "default",
        "sync"
      ])
      assert.deepStrictEqual(
        events.map((event) => (event._tag === "Enqueued" ? [event.id, event.worker, event.conflict] : [])),
        [
          [ids[0], "Mail", false],
          [ids[1], "Sync", false],
          [ids[2], "Mail", false],
          [ids[1], "Sync", true],
          [ids[3], "Mail", false]
        ]
      )
      assert.deepStrictEqual(yield* enqueueMany([]), [])
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("writes nothing and tells nothing of what is rolled back", () =>
    Effect.gen(function* () {
      const { enqueue, enqueueMany, events, signals, sql } = yield* setUp
      const jobs = [Mail.job({ to: "ada" }), Sync.job({ account: 1 })]
      yield* Effect.flip(sql.withTransaction(Effect.andThen(enqueueMany(jobs), Effect.fail("no"))))
      assert.deepStrictEqual(yield* counts, { jobs: 0, keys: 0 })
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* Effect.flip(sql.withTransaction(Effect.andThen(enqueueMany(jobs), Effect.fail("no"))))
          yield* enqueue(Mail.job({ to: "grace" }))
          assert.deepStrictEqual([events.length, signals.length], [0, 0])
        })
      )
      assert.deepStrictEqual(yield* counts, { jobs: 1, keys: 0 })
      assert.deepStrictEqual([events.length, signals.length], [1, 1])
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("stores args at their limits as they are", () =>
    Effect.gen(function* () {
      const { enqueue, enqueueMany } = yield* setUp
      let deep: Schema.Json = 1
      for (let level = 0; level < 1_000; level++) deep = level % 2 === 0 ? [deep] : { d: deep }
      const values: ReadonlyArray<Schema.Json> = [
        {},
        [],
        null,
        false,
        0,
        "",
        "text",
        { "": "", "a\"b'c": "\\u0000", "d\ne": "\u2028", é: "e\u0301", "🌳": "𝒯" },
        { "\\": "\\\\", ["__proto__"]: null, constructor: { prototype: 1 } },
        [1e300, 5e-324, -1e-7, Number.MAX_SAFE_INTEGER, 0.1],
        Object.fromEntries(Array.from({ length: 10_000 }, (_, index) => [`key ${index}`, index])),
        deep
      ]
      const results = yield* enqueueMany(values.map((value) => Anything.job(value)))
      for (const [index, result] of results.entries()) {
        assert.deepStrictEqual((yield* read(idOf(result))).args, values[index])
      }
      const huge = "🌲".repeat(2_621_440)
      const [row] = yield* (yield* setUp).sql<{ readonly same: boolean }>`
        select args = to_jsonb(repeat('🌲', 2621440)) as same
          from jobs.jobs where id = ${idOf(yield* enqueue(Anything.job(huge)))}`
      assert.deepStrictEqual(row, { same: true })
    }).pipe(Effect.provide(Fresh))
  )

  it.effect("refuses args that are nested too deep or are too large to be read back", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      let deep: Schema.Json = 1
      for (let level = 0; level < 1_001; level++) deep = [deep]
      const nested = yield* Effect.flip(enqueue(Anything.job(deep)))
      assert.include(nested.message, "is nested more than 1000 deep")
      const large = yield* Effect.flip(enqueue(Anything.job("x".repeat(15 * 1024 * 1024))))
      assert.include(large.message, "args are larger than 15 MiB")
      // Small texts here, and more than a driver reads there.
      const numbers = yield* Effect.flip(enqueue(Anything.job(Array.from({ length: 60_000 }, () => 1e300))))
      assert.include(numbers.message, "args are larger than 15 MiB")
      const blanks = yield* Effect.flip(enqueue(Anything.job(Array.from({ length: 6_000_000 }, () => 1))))
      assert.include(blanks.message, "args are larger than 15 MiB")
      const meta = yield* Effect.flip(enqueue(Mail.job({ to: "ada" }, { meta: { text: "x".repeat(262_144) } })))
      assert.include(meta.message, "meta is larger than 256 KiB")
      const tags = Array.from({ length: 101 }, (_, index) => `${index}`)
      assert.include(
        (yield* Effect.flip(enqueue(Mail.job({ to: "ada" }, { tags })))).message,
        "options.tags are more than 100"
      )
      const cycle: Record<string, unknown> = {}
      cycle["self"] = cycle
      const circular = yield* Effect.flip(enqueue(Mail.job({ to: "ada" }, { meta: cycle as never })))
      assert.include(circular.message, "is nested more than 1000 deep")
    }).pipe(Effect.provide(Fresh))
  )

  describe("trace", () => {
    it.effect("is the span around the call", () =>
      Effect.gen(function* () {
        const { enqueue } = yield* setUp
        const [id, span] = yield* Effect.gen(function* () {
          return [idOf(yield* enqueue(Mail.job({ to: "ada" }))), yield* Effect.currentSpan] as const
        }).pipe(Effect.withSpan("request"))
        const { trace } = yield* read(id)
        assert.strictEqual(trace, `00-${span.traceId}-${span.spanId}-01`)
        assert.isNull((yield* read(idOf(yield* enqueue(Mail.job({ to: "ada" }))))).trace)
      }).pipe(Effect.provide(Fresh))
    )
  })

  it.effect("takes jobs whose options all differ in one statement", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      const jobs = Array.from({ length: 500 }, (_, index) =>
        Mail.job(
          { to: `${index}` },
          { meta: { index }, tags: [`t${index}`], priority: index % 10, scheduleIn: index % 3 }
        )
      )
      const stored = yield* Effect.forEach((yield* enqueueMany(jobs)).map(idOf), read)
      for (const [index, { args, meta, priority, scheduled, tags }] of stored.entries()) {
        assert.deepStrictEqual(
          { args, meta, priority, scheduled, tags },
          { args: { to: `${index}` }, meta: { index }, priority: index % 10, scheduled: index % 3, tags: [`t${index}`] }
        )
      }
    }).pipe(Effect.provide(Fresh))
  )
})
