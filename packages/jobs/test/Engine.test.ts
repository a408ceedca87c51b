import { Job, Jobs, type NewJob, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import {
  Clock,
  Context,
  DateTime,
  Duration,
  Effect,
  Exit,
  Layer,
  Logger,
  Metric,
  References,
  Schema,
  Scope,
  Tracer
} from "effect"
import { SqlClient } from "effect/sql"
import { inserted, record, Virtual } from "./fixtures/engine.ts"

/** What handlers did, in order. */
class Log extends Context.Service<Log, Array<string>>()("test/Log") {
  static readonly layer = Layer.sync(Log, () => [])
}

class Failing extends Worker.Service<Failing>()("Failing", { args: {} }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.fail("no")))
}

class Step extends Worker.Service<Step>()("Step", {
  args: { name: Schema.String, millis: Schema.Finite },
  timeout: "1 hour"
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const log = yield* Log
      return ({ args, attempt }) =>
        Effect.gen(function* () {
          log.push(`${args.name} ${attempt}`)
          if (args.name === "logs") yield* Effect.logInfo("hello")
          if (args.name === "spans") yield* Effect.withSpan(Effect.void, "inner")
          if (args.name.startsWith("snoozes") && log.length < 3) return yield* Job.snooze("1 minute")
          yield* Effect.sleep(args.millis)
          log.push(`${args.name} done`)
        }).pipe(Effect.onInterrupt(() => Effect.sync(() => log.push(`${args.name} interrupted`))))
    })
  )
}

class Stubborn extends Worker.Service<Stubborn>()("Stubborn", {
  args: {},
  timeout: "1 minute",
  slowAfter: "30 seconds"
}) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.uninterruptible(Effect.sleep("3 minutes"))))
}

class Recorded extends Worker.Service<Recorded>()("Recorded", {
  args: { n: Schema.Int },
  result: Schema.Struct({ at: Schema.DateTimeUtcFromString })
}) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ args }) => Effect.succeed({ at: DateTime.makeUnsafe(args.n) }))
  )
}

const workers = [Failing.layer, Step.layer, Stubborn.layer, Recorded.layer] as const

const Node = (options: Partial<Omit<Jobs.Options<[]>, "workers">> = {}) =>
  Jobs.layer({ queues: { default: 10 }, log: "none", ...options, workers }).pipe(
    Layer.provideMerge(Log.layer),
    Layer.provideMerge(Virtual)
  )

const step = (name: string, millis = 0, options?: Parameters<typeof Step.job>[1]) =>
  inserted(Step.enqueue({ name, millis }, options))

/** A second node on the same database, which stops when its scope closes. */
const another = <const Workers extends ReadonlyArray<Layer.Any>>(options: Jobs.Options<Workers>) =>
  Effect.gen(function* () {
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
    const context = yield* Layer.buildWithScope(Layer.fresh(Jobs.layer(options)), scope)
    return { jobs: Context.get(context, Jobs.Jobs), stop: Scope.close(scope, Exit.void) }
  })

describe("backoff", () => {
  it.effect("is the default formula for all of twenty attempts, which take more than a week", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const id = yield* inserted(Failing.enqueue({}))
      yield* Pglite.advance("1 second")
      for (let attempt = 1; attempt < 20; attempt++) {
        const job = yield* jobs.get(id)
        assert.deepInclude(job, { state: "retryable", attempt })
        const wait = DateTime.toEpochMillis(job.scheduledAt) - DateTime.toEpochMillis(job.attemptedAt ?? job.insertedAt)
        const least = 1_000 * (15 + 2 ** attempt)
        assert.isAtLeast(wait, least)
        assert.isAtMost(wait, least * 1.1)
        const rest = DateTime.toEpochMillis(job.scheduledAt) - (yield* Clock.currentTimeMillis)
        yield* Pglite.advance(rest - 1)
        assert.strictEqual((yield* jobs.get(id)).attempt, attempt)
        yield* Pglite.advance(20)
        assert.strictEqual((yield* jobs.get(id)).attempt, attempt + 1)
      }
      assert.deepInclude(yield* jobs.get(id), { state: "discarded", attempt: 20 })
      assert.isAbove(yield* Clock.currentTimeMillis, Duration.toMillis("7 days"))
    }).pipe(Effect.provide(Node()))
  )
})

describe("an attempt", () => {
  it.effect("that snoozes does not count", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const log = yield* Log
      const id = yield* step("snoozes")
      yield* Pglite.advance("1 second")
      assert.deepInclude(yield* jobs.get(id), { state: "scheduled", attempt: 0, snoozes: 1 })
      yield* Pglite.advance("2 minutes")
      assert.deepInclude(yield* jobs.get(id), { state: "completed", attempt: 1, snoozes: 2 })
      assert.deepStrictEqual(log, ["snoozes 1", "snoozes 1", "snoozes 1", "snoozes done"])
    }).pipe(Effect.provide(Node()))
  )

  it.effect("that takes too long is interrupted, and has timed out", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const id = yield* step("long", Duration.toMillis("2 hours"))
      yield* Pglite.advance("59 minutes")
      assert.strictEqual((yield* jobs.get(id)).state, "executing")
      yield* Pglite.advance("61 seconds")
      const job = yield* jobs.get(id)
      assert.strictEqual(job.state, "retryable")
      assert.strictEqual(job.errors[0]?.kind, "timed out")
      assert.deepStrictEqual(yield* Log, ["long 1", "long interrupted"])
    }).pipe(Effect.provide(Node()))
  )

  it.effect("is told to be slow, and to be stuck when it does not end although it was interrupted, once each", () =>
    Effect.gen(function* () {
      const events = yield* record
      yield* Stubborn.enqueue({})
      yield* Pglite.advance("29 seconds")
      const told = () => events.flatMap(({ _tag }) => (_tag === "Slow" || _tag === "Stuck" ? [_tag] : []))
      assert.deepStrictEqual(told(), [])
      yield* Pglite.advance("10 seconds")
      assert.deepStrictEqual(told(), ["Slow"])
      yield* Pglite.advance("25 seconds")
      assert.deepStrictEqual(told(), ["Slow"])
      yield* Pglite.advance("15 seconds")
      assert.deepStrictEqual(told(), ["Slow", "Stuck"])
      yield* Pglite.advance("1 minute")
      assert.deepStrictEqual(told(), ["Slow", "Stuck"])
    }).pipe(Effect.scoped, Effect.provide(Node({ lease: "30 seconds" })))
  )

  it.effect("may record what it answers, encoded", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const id = yield* inserted(Recorded.enqueue({ n: 0 }))
      yield* Pglite.advance("1 second")
      assert.deepStrictEqual((yield* jobs.get(id)).result, { at: "1970-01-01T00:00:00.000Z" })
    }).pipe(Effect.provide(Node()))
  )
})

describe("a job that this node cannot run", () => {
  class NewStep extends Worker.Service<NewStep>()("Step", { args: { name: Schema.String }, argsVersion: 2 }) {
    static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
  }
  class Unknown extends Worker.Service<Unknown>()("Unknown", { args: {} }) {
    static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
  }

  it.effect("is left to others without using an attempt, and nothing behind it waits", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const events = yield* record
      const newer = yield* inserted(NewStep.enqueue({ name: "new" }))
      const unknown = yield* inserted(Unknown.enqueue({}))
      const mine = yield* step("mine")
      yield* Pglite.advance("5 seconds")
      assert.strictEqual((yield* jobs.get(mine)).state, "completed")
      for (const id of [newer, unknown]) assert.deepInclude(yield* jobs.get(id), { state: "available", attempt: 0 })
      // Once per kind, not once per look.
      assert.deepStrictEqual(
        events.flatMap((event) => (event._tag === "Unclaimable" ? [[event.id, event.reason]] : [])),
        [
          [newer, "newer args"],
          [unknown, "unknown worker"]
        ]
      )
      yield* another({ queues: { default: 10 }, workers: [NewStep.layer, Unknown.layer], log: "none", node: "newer" })
      yield* Pglite.advance("5 seconds")
      for (const id of [newer, unknown]) assert.deepInclude(yield* jobs.get(id), { state: "completed", attempt: 1 })
    }).pipe(Effect.scoped, Effect.provide(Node()))
  )

  it.effect("because its args do not fit is discarded, with an error that says where", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const sql = yield* SqlClient.SqlClient
      const ids = [yield* step("a", 0, { scheduleIn: "1 minute" }), yield* step("b", 0, { scheduleIn: "1 minute" })]
      for (const [index, args] of [`{"name": 1, "millis": 0}`, `[]`].entries()) {
        yield* sql.unsafe("update jobs.jobs set args = $1::text::jsonb where id = $2::text::bigint", [
          args,
          String(ids[index])
        ])
      }
      const fine = yield* step("fine", 0, { scheduleIn: "1 minute" })
      yield* Pglite.advance("2 minutes")
      for (const id of ids) {
        const job = yield* jobs.get(id)
        assert.deepInclude(job, { state: "discarded", attempt: 1 })
        assert.strictEqual(job.errors[0]?.kind, "invalid args")
      }
      assert.include((yield* jobs.get(ids[0] ?? fine)).errors[0]?.message, `["name"]`)
      assert.strictEqual((yield* jobs.get(fine)).state, "completed")
    }).pipe(Effect.provide(Node()))
  )
})

describe("cancelling", () => {
  it.effect("interrupts what runs, on another node too, and keeps the reason", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const other = yield* another({ queues: {}, workers: [], log: "none", node: "other" })
      const id = yield* step("long", 60_000)
      yield* Pglite.advance("1 second")
      assert.deepStrictEqual(yield* other.jobs.cancel({ id }, "changed my mind"), { cancelled: 0, requested: 1 })
      // At the latest with the next heartbeat, whatever becomes of the notification.
      yield* Pglite.advance("6 seconds")
      const job = yield* jobs.get(id)
      assert.strictEqual(job.state, "cancelled")
      assert.deepStrictEqual(yield* Log, ["long 1", "long interrupted"])
      assert.include(job.errors.map(({ message }) => message).join(), "changed my mind")
    }).pipe(Effect.scoped, Effect.provide(Node()))
  )

  it.effect("does not undo a success", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const sql = yield* SqlClient.SqlClient
      const id = yield* step("long", 500)
      yield* Pglite.advance(400)
      // Nobody is told, and the job ends before the heartbeat sees it.
      yield* sql`update jobs.jobs set cancel_requested_at = statement_timestamp()`
      yield* Pglite.advance(200)
      assert.strictEqual((yield* jobs.get(id)).state, "completed")
    }).pipe(Effect.provide(Node()))
  )
})

describe("a unique job", () => {
  it.effect("gives its key back when it has ended, however it ends", () =>
    Effect.gen(function* () {
      const unique: NewJob.Unique<"name"> = {
        keys: ["name"],
        states: ["scheduled", "available", "executing", "retryable"]
      }
      for (const name of ["succeeds", "succeeds", "snoozes"]) {
        const enqueue = Step.enqueue({ name, millis: 100 }, { unique })
        assert.strictEqual((yield* enqueue)._tag, "Inserted", name)
        yield* Pglite.advance(50)
        assert.strictEqual((yield* enqueue)._tag, "Conflict", name)
        yield* Pglite.advance("2 minutes")
        assert.strictEqual((yield* enqueue)._tag, "Inserted", name)
        yield* Pglite.advance("2 minutes")
      }
    }).pipe(Effect.provide(Node()))
  )
})

describe("a queue", () => {
  it.effect("runs by priority, and first come first served within one, never more than its limit", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const log = yield* Log
      yield* jobs.pause("default")
      yield* Pglite.advance("2 seconds")
      for (const [name, priority] of [
        ["c", 9],
        ["d", 9],
        ["a", 0],
        ["b", 5],
        ["e", 9],
        ["f", 9]
      ] as const) {
        yield* step(name, 1_000, { priority })
      }
      yield* jobs.resume("default")
      let most = 0
      for (let n = 0; n < 30; n++) {
        yield* Pglite.advance(250)
        const running = (yield* jobs.status).queues["default"]?.running ?? 0
        const begun =
          log.filter((line) => line.endsWith(" 1")).length - log.filter((line) => line.endsWith(" done")).length
        assert.strictEqual(begun, running)
        most = Math.max(most, running)
      }
      assert.strictEqual(most, 2)
      assert.deepStrictEqual(
        log.filter((line) => line.endsWith(" 1")).map((line) => line[0]),
        ["a", "b", "c", "d", "e", "f"]
      )
    }).pipe(Effect.provide(Node({ queues: { default: 2 } })))
  )

  it.effect("keeps the order of what was claimed ahead and handed back", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const log = yield* Log
      // Fast jobs make it claim ahead; then come slow ones, which it must not keep from others.
      yield* Step.enqueueMany(Array.from({ length: 300 }, () => ({ name: "fast", millis: 0 })))
      const slow = yield* Effect.forEach(
        Array.from({ length: 60 }, (_, n) => n),
        (n) => step(`slow ${n}`, 600_000)
      )
      yield* Pglite.advance("3 seconds")
      const states = yield* Effect.forEach(slow, (id) => jobs.get(id))
      assert.deepStrictEqual(
        states.map(({ state }) => state),
        slow.map((_, n) => (n < 2 ? "executing" : "available"))
      )
      assert.isTrue(states.every(({ attempt, state }) => attempt === (state === "executing" ? 1 : 0)))
      log.length = 0
      yield* Pglite.advance("31 minutes")
      assert.deepStrictEqual(
        log.filter((line) => line.endsWith(" 1")).map((line) => line.split(" ")[1]),
        ["2", "3", "4", "5", "6", "7"]
      )
    }).pipe(Effect.provide(Node({ queues: { default: 2 } })))
  )

  it.effect("that is scaled to nothing claims nothing", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      yield* Step.enqueueMany(Array.from({ length: 300 }, () => ({ name: "fast", millis: 0 })))
      yield* Pglite.advance("1 second")
      yield* jobs.scale("default", 0)
      yield* Pglite.advance("1 second")
      const ids = yield* Effect.forEach(Array.from({ length: 100 }), () => step("waits"))
      yield* Pglite.advance("3 seconds")
      const states = new Set((yield* Effect.forEach(ids, (id) => jobs.get(id))).map(({ state }) => state))
      assert.deepStrictEqual([...states], ["available"])
    }).pipe(Effect.provide(Node({ queues: { default: 2 } })))
  )
})

describe("what can be seen of a job", () => {
  it.effect("its span goes on with the trace of whoever enqueued it, also after a bad trace was stored", () => {
    const spans: Array<Tracer.Span> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    return Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const sql = yield* SqlClient.SqlClient
      const bad = yield* step("bad", 0, { scheduleIn: "1 second" })
      yield* sql`update jobs.jobs set trace = 'nonsense-\u2603'`
      yield* Effect.withSpan(step("spans"), "request")
      yield* Pglite.advance("2 seconds")
      const request = spans.find(({ name }) => name === "request")
      const job = spans.find(({ name, traceId }) => name === "job Step" && traceId === request?.traceId)
      const inner = spans.find(({ name }) => name === "inner")
      assert.isDefined(job)
      assert.strictEqual(job?.parent._tag === "Some" ? job.parent.value.spanId : "", request?.spanId)
      assert.strictEqual(inner?.traceId, request?.traceId)
      assert.strictEqual(inner?.parent._tag === "Some" ? inner.parent.value.spanId : "", job?.spanId)
      assert.strictEqual((yield* jobs.get(bad)).state, "completed")
    }).pipe(Effect.provide(Node()), Effect.provideService(Tracer.Tracer, tracer))
  })

  it.effect("its logs say which it is", () => {
    const lines: Array<Readonly<Record<string, unknown>>> = []
    const logger = Logger.make(({ fiber, message }) => {
      if (String(message) === "hello") lines.push(fiber.getRef(References.CurrentLogAnnotations))
    })
    return Effect.gen(function* () {
      const id = yield* step("logs")
      yield* Pglite.advance("1 second")
      assert.deepStrictEqual(lines, [{ job: id, worker: "Step", queue: "default", attempt: 1 }])
    }).pipe(Effect.provide(Node().pipe(Layer.provideMerge(Logger.layer([logger])))))
  })

  it.effect("its ends are counted", () =>
    Effect.gen(function* () {
      const count = (event: string, worker: string) =>
        Effect.map(Metric.snapshot, (all) =>
          all.reduce((sum, metric) => {
            const { attributes } = metric
            return metric.id === "coppice_jobs_total"
              && attributes?.["event"] === event
              && attributes["worker"] === worker
              && metric.type === "Counter"
              ? sum + Number(metric.state.count)
              : sum
          }, 0)
        )
      yield* Effect.replicateEffect(step("counted"), 5)
      yield* Failing.enqueue({})
      yield* Pglite.advance("1 second")
      assert.strictEqual(yield* count("Completed", "Step"), 5)
      assert.strictEqual(yield* count("Retryable", "Failing"), 1)
      assert.strictEqual(yield* count("Enqueued", "Step"), 5)
    }).pipe(Effect.provide(Node()), Effect.provideService(Metric.MetricRegistry, new Map()))
  )
})
