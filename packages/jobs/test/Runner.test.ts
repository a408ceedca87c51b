import { Job, type JobEvent, Jobs, JobsConfig, Migrations, Runner, Worker } from "@coppice/jobs"
import { Sandbox } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Fiber, Layer, Ref, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { EmptyDatabase } from "./fixtures/engine.ts"

class Log extends Context.Service<Log, Ref.Ref<ReadonlyArray<string>>>()("test/Log") {
  static readonly layer = Layer.effect(Log, Ref.make<ReadonlyArray<string>>([]))
}

const write = (line: string) => Effect.flatMap(Log, (log) => Ref.update(log, (all) => [...all, line]))
const logged = Effect.flatMap(Log, Ref.get)

class Greet extends Worker.Service<Greet>()("Greet", { args: { name: Schema.String }, maxAttempts: 3 }) {
  static readonly layer = this.toLayer(
    Effect.succeed(
      Effect.fnUntraced(function* ({ args: { name }, attempt }) {
        yield* write(`${name} ${attempt}`)
        switch (name) {
          case "fails":
            return yield* Effect.fail("no")
          case "dies":
            return yield* Effect.die("bug")
          case "cancels":
            return yield* Job.cancel("enough")
          case "discards":
            return yield* Job.discard("never")
          case "snoozes":
            return yield* Job.snooze("1 hour")
          case "interrupts":
            return yield* Effect.interrupt
        }
      })
    )
  )
}

class Chain extends Worker.Service<Chain>()("Chain", { args: { left: Schema.Int }, queue: "chain" }) {
  static readonly layer = this.toLayer(
    Effect.succeed(
      Effect.fnUntraced(function* ({ args: { left } }) {
        yield* write(`chain ${left}`)
        if (left > 0) yield* Chain.enqueue({ left: left - 1 })
      })
    )
  )
}

class Writer extends Worker.Service<Writer>()("Writer", {
  args: { n: Schema.Int, then: Schema.Literals(["nothing", "fails", "breaks"]) }
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      return Effect.fnUntraced(function* ({ args: { n, then } }) {
        yield* sql`insert into numbers values (${n})`
        if (then === "fails") return yield* Effect.fail("no")
        if (then === "breaks") yield* sql`select 1 / 0`
      })
    })
  )
}

class Sleeper extends Worker.Service<Sleeper>()("Sleeper", {
  args: { seconds: Schema.Int },
  timeout: "1 minute",
  unique: { keys: ["seconds"] }
}) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ args }) =>
      write(`sleeps ${args.seconds}`).pipe(
        Effect.andThen(Effect.sleep(Duration.seconds(args.seconds))),
        Effect.andThen(write(`woke ${args.seconds}`))
      )
    )
  )
}

class Absent extends Worker.Service<Absent>()("Absent", { args: {} }) {}
class NewGreet extends Worker.Service<NewGreet>()("Greet", { args: { nick: Schema.String }, argsVersion: 2 }) {}

const workers = [Greet.layer, Chain.layer, Writer.layer, Sleeper.layer] as const

const none: Runner.Drained = {
  completed: 0,
  retryable: 0,
  discarded: 0,
  cancelled: 0,
  snoozed: 0,
  lost: 0,
  unclaimable: 0
}

const Clock = Layer.succeed(JobsConfig.TimeSource, "clock")

const Database = Layer.provideMerge(
  Layer.effectDiscard(
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrations.run
      yield* sql`create table numbers(n int4)`
    })
  ),
  EmptyDatabase
)

/** Each test in a sandbox of its own, on virtual time. */
const inSandbox = (runner: typeof manual) => {
  const all = runner.pipe(
    Layer.provideMerge(Log.layer),
    Layer.provideMerge(Layer.fresh(Sandbox.layer)),
    Layer.provide(Clock)
  )
  return <A, E>(effect: Effect.Effect<A, E, Layer.Success<typeof all>>) => Effect.provide(effect, all, { local: true })
}

const manual = Runner.layer({ workers })
const run = inSandbox(manual)

const numbers = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly n: number }>`select n from numbers order by n`
  return rows.map(({ n }) => n)
})

const statesOf = Effect.gen(function* () {
  const { list } = yield* Jobs.Jobs
  return (yield* list()).map(({ state }) => state).toReversed()
})

layer(Database)("a runner", (it) => {
  it.effect("drains what is there once, and counts how it ended", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        for (const name of ["Ada", "fails", "dies", "cancels", "discards", "snoozes", "interrupts"]) {
          yield* Greet.enqueue({ name })
        }
        assert.deepStrictEqual(yield* runner.drain(), {
          ...none,
          completed: 1,
          retryable: 3,
          cancelled: 1,
          discarded: 1,
          snoozed: 1
        })
        assert.deepStrictEqual(yield* statesOf, [
          "completed",
          "retryable",
          "retryable",
          "cancelled",
          "discarded",
          "scheduled",
          "retryable"
        ])
        assert.deepStrictEqual(yield* runner.drain(), none)
      })
    )
  )

  it.effect("leaves no node behind", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const sql = yield* SqlClient.SqlClient
        yield* Greet.enqueue({ name: "fails" })
        yield* Effect.exit(runner.drain({ withSafety: false }))
        assert.deepStrictEqual(yield* sql`select id from jobs.nodes`, [])
      })
    )
  )

  it.effect("runs what is due, and with what is scheduled everything, retries included", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        yield* Greet.enqueue({ name: "soon" }, { scheduleIn: "1 minute" })
        yield* Greet.enqueue({ name: "late" }, { scheduleIn: "1 day" })
        yield* Greet.enqueue({ name: "fails" }, { scheduleIn: "1 hour" })
        assert.deepStrictEqual(yield* runner.stage, Duration.minutes(1))
        assert.deepStrictEqual(yield* runner.drain(), none)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* runner.drain(), { ...none, completed: 1 })
        const twoHours = 2 * 60 * 60 * 1_000
        assert.deepStrictEqual(yield* runner.drain({ withScheduled: twoHours }), { ...none, retryable: 1 })
        assert.deepStrictEqual(yield* runner.drain({ withScheduled: true, withRecursion: true }), {
          ...none,
          completed: 1,
          retryable: 1,
          discarded: 1
        })
        assert.deepStrictEqual(yield* logged, ["soon 1", "fails 1", "late 1", "fails 2", "fails 3"])
        assert.strictEqual(yield* runner.stage, undefined)
      })
    )
  )

  it.effect("makes nothing of another queue available before its time", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        yield* Greet.enqueue({ name: "Ada" }, { queue: "other", scheduleIn: "1 day" })
        yield* Greet.enqueue({ name: "Bob" }, { scheduleIn: "1 day" })
        assert.deepStrictEqual(yield* runner.drain({ queue: "default", withScheduled: true }), {
          ...none,
          completed: 1
        })
        assert.deepStrictEqual(yield* statesOf, ["scheduled", "completed"])
      })
    )
  )

  it.effect("runs by priority, then in order, and no more than its limit", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        yield* Greet.enqueue({ name: "third" }, { priority: 5 })
        yield* Greet.enqueue({ name: "first" })
        yield* Greet.enqueue({ name: "second" }, { queue: "other" })
        assert.deepStrictEqual(yield* runner.drain({ limit: 2 }), { ...none, completed: 2 })
        assert.deepStrictEqual(yield* logged, ["first 1", "second 1"])
        assert.deepStrictEqual(yield* runner.drain({ limit: 0 }), none)
        const ran = yield* runner.runOne()
        assert.deepStrictEqual(
          [ran?.worker, ran?.attempt, ran?.outcome, ran?.state],
          ["Greet", 1, { _tag: "Completed", result: undefined }, "completed"]
        )
        assert.strictEqual(yield* runner.runOne(), undefined)
      })
    )
  )

  it.effect("runs what jobs enqueue only with recursion", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        yield* Chain.enqueue({ left: 3 })
        assert.deepStrictEqual(yield* runner.drain(), { ...none, completed: 1 })
        assert.deepStrictEqual(yield* runner.drain({ withRecursion: true }), { ...none, completed: 3 })
        assert.deepStrictEqual(yield* logged, ["chain 3", "chain 2", "chain 1", "chain 0"])
      })
    )
  )

  it.effect("says so when jobs enqueue jobs for ever, and stops at a limit without a word", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        yield* Chain.enqueue({ left: 1_000_000 })
        assert.deepStrictEqual(yield* runner.drain({ withRecursion: true, limit: 10 }), { ...none, completed: 10 })
        const error = yield* Effect.flip(runner.drain({ withRecursion: true }))
        assert.strictEqual(
          error.message,
          "100 jobs became available while the queue was drained, each after one before, the last one of Chain, and there"
            + " are more: does a job enqueue itself? Give the drain a limit, or call it without withRecursion"
        )
      })
    )
  )

  it.effect("without safety fails with the first failure, after it was written", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        for (const name of ["cancels", "dies", "Ada"]) yield* Greet.enqueue({ name })
        const error = yield* Effect.flip(runner.drain({ withSafety: false }))
        assert.strictEqual(error._tag, "JobFailed")
        assert.match(error.message, /^Job \d+ of Greet failed at attempt 1: Error: bug/)
        assert.deepStrictEqual(yield* statesOf, ["cancelled", "retryable", "available"])
        const [dead] = yield* jobs.list({ state: "retryable" })
        assert.deepStrictEqual(
          dead?.errors.map(({ attempt, kind }) => [attempt, kind]),
          [[1, "died"]]
        )
      })
    )
  )

  it.effect("leaves jobs whose code is missing as they are, and counts them", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        const absent = yield* Absent.enqueue({})
        yield* NewGreet.enqueue({ nick: "A" })
        yield* Greet.enqueue({ name: "Ada" })
        assert.deepStrictEqual(yield* runner.drain({ withRecursion: true }), { ...none, completed: 1, unclaimable: 2 })
        assert.deepStrictEqual(
          (yield* jobs.list({ state: "available" })).map(({ attempt, lease }) => [attempt, lease]),
          [
            [0, 0],
            [0, 0]
          ]
        )
        assert.strictEqual(yield* runner.runOne(), undefined)
        assert(absent._tag === "Inserted")
        assert.strictEqual(yield* runner.run(absent.id), undefined)
        assert.deepStrictEqual(
          (yield* jobs.list({ worker: "Absent" })).map(({ attempt, state }) => [state, attempt]),
          [["available", 0]]
        )
      })
    )
  )

  it.effect("discards args that do not fit, and fails with them without safety", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const sql = yield* SqlClient.SqlClient
        for (let n = 0; n < 2; n++) yield* Greet.enqueue({ name: "Ada" })
        yield* sql`update jobs.jobs set args = '{"name": 1}'`
        assert.deepStrictEqual(yield* runner.drain({ limit: 1 }), { ...none, discarded: 1 })
        const error = yield* Effect.flip(runner.drain({ withSafety: false }))
        assert.match(error.message, /Expected string/)
        assert.deepStrictEqual(yield* statesOf, ["discarded", "discarded"])
      })
    )
  )

  it.effect("runs one job of many, however it is scheduled", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        yield* Greet.enqueue({ name: "Ada" })
        const late = yield* Greet.enqueue({ name: "Bob" }, { scheduleIn: "1 day" })
        assert(late._tag === "Inserted")
        assert.strictEqual((yield* runner.run(late.id))?.state, "completed")
        assert.strictEqual(yield* runner.run(late.id), undefined)
        assert.deepStrictEqual(yield* statesOf, ["available", "completed"])
      })
    )
  )

  it.effect("hands a job back with its attempt when it is interrupted", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        yield* Sleeper.enqueue({ seconds: 30 })
        const fiber = yield* Effect.forkChild(runner.drain(), { startImmediately: true })
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* statesOf, ["executing"])
        yield* Fiber.interrupt(fiber)
        const [job] = yield* jobs.list()
        assert.deepStrictEqual([job?.state, job?.attempt, job?.errors], ["available", 0, []])
      })
    )
  )

  it.effect("interrupts a job that is to be cancelled", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        yield* Sleeper.enqueue({ seconds: 30 })
        const fiber = yield* Effect.forkChild(runner.drain(), { startImmediately: true })
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* jobs.cancel({ worker: "Sleeper" }), { cancelled: 0, requested: 1 })
        assert.deepStrictEqual(yield* Fiber.join(fiber), { ...none, cancelled: 1 })
        assert.deepStrictEqual(yield* statesOf, ["cancelled"])
        assert.deepStrictEqual(yield* logged, ["sleeps 30"])
      })
    )
  )

  it.effect("interrupts a handler at its timeout", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        yield* Sleeper.enqueue({ seconds: 90 })
        const fiber = yield* Effect.forkChild(runner.drain(), { startImmediately: true })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* Fiber.join(fiber), { ...none, retryable: 1 })
        const [job] = yield* jobs.list()
        assert.deepStrictEqual(
          job?.errors.map(({ kind }) => kind),
          ["timed out"]
        )
      })
    )
  )

  it.effect("runs as many at once as it is told to", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        for (const seconds of [3, 2, 1]) yield* Sleeper.enqueue({ seconds })
        const fiber = yield* Effect.forkChild(runner.drain({ concurrency: 2 }), { startImmediately: true })
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(yield* Fiber.join(fiber), { ...none, completed: 3 })
        assert.deepStrictEqual(yield* logged, ["sleeps 3", "sleeps 2", "woke 2", "sleeps 1", "woke 3", "woke 1"])
      })
    )
  )

  it.effect("gives unique keys back", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const tags = Effect.map(Sleeper.enqueue({ seconds: 0 }), ({ _tag }) => _tag)
        assert.deepStrictEqual([yield* tags, yield* tags], ["Inserted", "Conflict"])
        yield* runner.drain()
        assert.deepStrictEqual(yield* tags, "Inserted")
      })
    )
  )

  it.effect("tells of what it did", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        const listening = yield* Deferred.make<void>()
        const events = yield* jobs.events.pipe(
          Stream.onStart(Deferred.succeed(listening, undefined)),
          Stream.take(7),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        yield* Deferred.await(listening)
        for (const name of ["Ada", "fails", "snoozes"]) yield* Greet.enqueue({ name })
        yield* runner.drain({ limit: 2 })
        const tags = (all: ReadonlyArray<JobEvent.JobEvent>) => all.map(({ _tag }) => _tag)
        assert.deepStrictEqual(tags(yield* Fiber.join(events)), [
          "Enqueued",
          "Enqueued",
          "Enqueued",
          "Started",
          "Completed",
          "Started",
          "Retryable"
        ])
      })
    )
  )
})

layer(Database)("the layer of a runner", (it) => {
  it.effect("refuses a worker whose jobs could never be enqueued", () => {
    class Odd extends Worker.Service<Odd>()("Odd", { args: {}, priority: 10 }) {
      static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
    }
    return Effect.gen(function* () {
      const error = yield* Effect.flip(Layer.build(Runner.layer({ workers: [Odd.layer] })))
      assert.match(error.message, /priority.*from 0 to 9/)
    })
  })
})

layer(Database)("a runner inside a transaction", (it) => {
  it.effect("is a part of it, with a savepoint for each job", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const runner = yield* Runner.Runner
        const drained = yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* Writer.enqueue({ n: 1, then: "nothing" })
            yield* Writer.enqueue({ n: 2, then: "breaks" })
            yield* Writer.enqueue({ n: 3, then: "fails" })
            yield* Writer.enqueue({ n: 4, then: "nothing" })
            return yield* sql.withTransaction(runner.drain({ concurrency: 10 }))
          })
        )
        assert.deepStrictEqual(drained, { ...none, completed: 2, retryable: 2 })
        assert.deepStrictEqual(yield* numbers, [1, 4])
        assert.deepStrictEqual(yield* statesOf, ["completed", "retryable", "retryable", "completed"])
      })
    )
  )

  it.effect("is undone with it", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const runner = yield* Runner.Runner
        yield* Writer.enqueue({ n: 1, then: "nothing" })
        const drained = Effect.tap(runner.drain(), (counts) =>
          Effect.sync(() => assert.deepStrictEqual(counts, { ...none, completed: 1 }))
        )
        yield* Effect.flip(sql.withTransaction(Effect.andThen(drained, Effect.fail("no"))))
        assert.deepStrictEqual(yield* numbers, [])
        assert.deepStrictEqual(yield* statesOf, ["available"])
        assert.deepStrictEqual(yield* sql`select id from jobs.nodes`, [])
        yield* drained
        assert.deepStrictEqual(yield* numbers, [1])
      })
    )
  )
})
