import { Job, Jobs, type NewJob, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Cause, Duration, Effect, Layer, Schema, SchemaTransformation } from "effect"
import { SqlClient } from "effect/sql"
import { Virtual } from "./fixtures/engine.ts"

/** Builds something with a `cause` in a `cause`, and so on. */
const nested = (depth: number): Error => {
  let error = new Error("the first")
  for (let n = 0; n < depth; n++) error = new Error(`number ${n}`, { cause: error })
  return error
}

const circular = (): Error => {
  const error = new Error("circular")
  error.cause = { cause: { cause: error } }
  return error
}

const hostile = (): object =>
  new Proxy(
    {},
    {
      get: () => {
        throw new Error("do not look at me")
      },
      has: () => {
        throw new Error("do not ask me")
      },
      ownKeys: () => {
        throw new Error("do not list me")
      },
      getPrototypeOf: () => {
        throw new Error("do not ask where I come from")
      }
    }
  )

const thrown: Readonly<Record<string, () => unknown>> = {
  nul: () => new Error("a\u0000b"),
  surrogate: () => new Error("half \ud83e of one"),
  huge: () => new Error("x".repeat(50_000_000)),
  "huge stack": () => Object.assign(new Error("x"), { stack: "Error: x\n".repeat(5_000_000) }),
  "toString throws": () => ({
    toString: () => {
      throw new Error("no")
    }
  }),
  "message throws": () => ({
    get message() {
      throw new Error("no")
    }
  }),
  "message is no text": () => ({ message: { toString: () => 1 } }),
  hostile,
  circular,
  deep: () => nested(100_000),
  undefined: () => undefined,
  null: () => null,
  symbol: () => Symbol("s"),
  bigint: () => 10n,
  function: () => () => {},
  "circular object": () => {
    const one: Record<string, unknown> = {}
    one["self"] = one
    return one
  },
  bare: () => Object.create(null)
}

class Bad extends Worker.Service<Bad>()("Bad", {
  args: { what: Schema.String, how: Schema.Literals(["fail", "die", "throw", "many"]) }
}) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ args }) => {
      const error = thrown[args.what]?.()
      switch (args.how) {
        case "fail":
          return Effect.fail(error)
        case "die":
          return Effect.die(error)
        case "throw":
          throw error
        case "many":
          return Effect.failCause(Cause.fromReasons(Array.from({ length: 20_000 }, () => Cause.makeFailReason(error))))
      }
    })
  )
}

class Fine extends Worker.Service<Fine>()("Fine", { args: {} }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
}

/** Its args cannot be looked at. */
const Explosive = Schema.String.pipe(
  Schema.decodeTo(
    Schema.String,
    SchemaTransformation.transform({
      decode: (text: string): string => {
        throw new Error(`no ${text}`)
      },
      encode: (text: string) => text
    })
  )
)

class Mined extends Worker.Service<Mined>()("Mined", { args: { explosive: Explosive } }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
}

class Odd extends Worker.Service<Odd>()("Odd", { args: {} }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
}

class NoEffect extends Worker.Service<NoEffect>()("NoEffect", { args: { what: Schema.Int } }) {
  static readonly layer = this.toLayer(
    // What no type checker has seen.
    Effect.succeed(
      ({ args }) =>
        [undefined, 1, { _tag: "Success" }, Promise.resolve(1)][args.what] as unknown as Effect.Effect<unknown>
    )
  )
}

class Answer extends Worker.Service<Answer>()("Answer", { args: { what: Schema.String }, result: Schema.Any }) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ args }) =>
      Effect.sync(() => {
        const results: Record<string, () => unknown> = {
          nul: () => ({ a: "\u0000" }),
          surrogate: () => ["\udc00"],
          huge: () => "x".repeat(50_000_000),
          circular: () => {
            const one: Record<string, unknown> = {}
            one["self"] = one
            return one
          },
          deep: () => {
            let one: unknown = 1
            for (let n = 0; n < 5_000; n++) one = [one]
            return one
          },
          throws: () => ({
            get a() {
              throw new Error("no")
            }
          }),
          toJSON: () => ({
            toJSON: () => {
              throw new Error("no")
            }
          }),
          hostile,
          undefined: () => undefined,
          nan: () => Number.NaN,
          null: () => null,
          fine: () => ({ a: 1 })
        }
        return results[args.what]?.()
      })
    )
  )
}

class Snoozer extends Worker.Service<Snoozer>()("Snoozer", { args: { millis: Schema.Number } }) {
  static readonly layer = this.toLayer(Effect.succeed(({ args }) => Job.snooze(args.millis)))
}

class Backoff extends Worker.Service<Backoff>()("Backoff", {
  args: { what: Schema.Int },
  backoff: ({ error }) =>
    [
      () => {
        throw new Error("backoff is broken")
      },
      () => Number.NaN,
      () => Number.POSITIVE_INFINITY,
      () => Number.MAX_VALUE,
      () => -5,
      () => "soon",
      () => undefined,
      () => Duration.days(10_000_000)
    ][Number(error)]?.() as Duration.Input
}) {
  static readonly layer = this.toLayer(Effect.succeed(({ args }) => Effect.fail(args.what)))
}

const Node = Jobs.layer({
  queues: { default: 50 },
  workers: [Bad.layer, Fine.layer, Odd.layer, Mined.layer, NoEffect.layer, Answer.layer, Snoozer.layer, Backoff.layer],
  lease: "30 seconds",
  log: "none"
}).pipe(Layer.provideMerge(Virtual))

layer(Node)("what handlers may do to the queue", (it) => {
  /** Jobs among others that are fine, and must stay so; answers what became of them, with what they were. */
  const among = <A>(all: ReadonlyArray<A>, job: (one: A) => NewJob.NewJob) =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const answers = yield* jobs.enqueueMany(all.flatMap((one) => [Fine.job({}), job(one), Fine.job({})]))
      yield* Pglite.advance("2 seconds")
      const ids = answers.map((answer) => (answer._tag === "Inserted" ? answer.id : assert.fail(answer._tag)))
      const found = new Map((yield* jobs.list({ id: ids }, { limit: ids.length })).map((record) => [record.id, record]))
      const records = ids.map((id) => found.get(id) ?? assert.fail(`job ${id} is gone`))
      for (const { state, worker } of records) if (worker === "Fine") assert.strictEqual(state, "completed")
      return all.map((one, index) => [one, records[3 * index + 1] ?? assert.fail()] as const)
    })

  it.effect("errors of any kind are kept as texts, and the jobs are tried again", () =>
    Effect.gen(function* () {
      const all = Object.keys(thrown).flatMap((what) =>
        (["fail", "die", "throw"] as const)
          // Making these takes longer than looking at them.
          .filter((how) => how === "fail" || !["huge", "huge stack", "deep"].includes(what))
          .map((how) => ({ what, how }))
      )
      for (const [{ how, what }, { attempt, errors, state }] of yield* among(all, (args) => Bad.job(args))) {
        assert.deepEqual({ what, how, attempt, state }, { what, how, attempt: 1, state: "retryable" })
        assert.lengthOf(errors, 1)
        assert.strictEqual(errors[0]?.kind, how === "fail" ? "failed" : "died")
        assert.isAtMost(errors[0]?.message.length ?? 0, 8_001)
        assert.isAbove(errors[0]?.message.length ?? 0, 0)
      }
    })
  )

  it.effect("args whose schema throws are a failure of that job alone", () =>
    Effect.gen(function* () {
      const [one] = yield* among(["boom"], (explosive) => Mined.job({ explosive }))
      assert.deepInclude(one?.[1], { attempt: 1 })
      assert.include(["retryable", "discarded"], one?.[1].state)
      assert.include(one?.[1].errors[0]?.message, "no boom")
    })
  )

  it.effect("a cause of twenty thousand parts is cut", () =>
    Effect.gen(function* () {
      const [one] = yield* among(["nul"], (what) => Bad.job({ what, how: "many" }))
      assert.deepInclude(one?.[1], { state: "retryable", attempt: 1 })
      assert.isAtMost(one?.[1].errors[0]?.message.length ?? 0, 8_001)
    })
  )

  it.effect("a handler that answers something that is no effect has failed", () =>
    Effect.gen(function* () {
      for (const [what, job] of yield* among([0, 1, 2, 3], (what) => NoEffect.job({ what }))) {
        assert.deepInclude({ ...job, what }, { state: "retryable", attempt: 1, what })
      }
    })
  )

  it.effect("results that cannot be kept are not, and say so; the jobs are completed all the same", () =>
    Effect.gen(function* () {
      const all = ["nul", "surrogate", "huge", "circular", "deep", "throws", "toJSON", "hostile", "undefined", "nan"]
      for (const [what, job] of yield* among(all, (what) => Answer.job({ what }))) {
        assert.deepInclude({ ...job, what }, { state: "completed", attempt: 1, what, result: undefined })
        assert.deepEqual([what, job.errors[0]?.kind], [what, "result not recorded"])
        assert.isBelow(job.errors[0]?.message.length ?? 0, 8_001)
      }
      const [nothing, fine] = yield* among(["null", "fine"], (what) => Answer.job({ what }))
      assert.isNull(nothing?.[1].result)
      assert.deepStrictEqual(fine?.[1].result, { a: 1 })
    })
  )

  it.effect("a snooze without an end is a failure, and one of nothing or less is no loop without a pause", () =>
    Effect.gen(function* () {
      const endless = [Number.POSITIVE_INFINITY, 1e300, Number.MAX_SAFE_INTEGER]
      for (const [millis, job] of yield* among(endless, (millis) => Snoozer.job({ millis }))) {
        assert.deepInclude({ ...job, millis }, { state: "retryable", attempt: 1, snoozes: 0, millis })
        assert.include(job.errors[0]?.message, "snooze")
      }
      const none = [Number.NaN, -1_000, Number.NEGATIVE_INFINITY, 0]
      for (const [, job] of yield* among(none, (millis) => Snoozer.job({ millis }))) {
        assert.deepInclude(job, { state: "scheduled", attempt: 0 })
        assert.isAtMost(job.snoozes, 3)
      }
    })
  )

  it.effect("a backoff that is broken leaves the job to be tried again, at a time that exists", () =>
    Effect.gen(function* () {
      for (const [what, job] of yield* among([0, 1, 2, 3, 4, 5, 6, 7], (what) => Backoff.job({ what }))) {
        // Those of nothing or less try again at once, as often as they may.
        const atOnce = what === 1 || what === 4
        assert.deepInclude({ ...job, what }, atOnce ? { what } : { what, state: "retryable", attempt: 1 })
        assert.isAtMost(job.attempt, 20)
      }
    })
  )

  for (const [code, what] of [
    ["22P05", "data that it cannot store"],
    ["P0001", "something of its own"],
    ["XX000", "an error inside of it"]
  ]) {
    it.effect(`an end that the database refuses for ${what} harms no other, and the job comes back`, () =>
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        const sql = yield* SqlClient.SqlClient
        yield* sql.unsafe(`
          create or replace function refuse() returns trigger language plpgsql as $$
          begin
            if new.worker = 'Odd' then raise exception 'no' using errcode = '${code}'; end if;
            return new;
          end $$`)
        yield* sql`create trigger refuse before insert on jobs.jobs_history for each row execute function refuse()`
        const [odd] = yield* jobs.enqueueMany([
          Odd.job({}),
          ...Array.from({ length: 40 }, (_, n) => (n % 2 === 0 ? Fine.job({}) : Answer.job({ what: "fine" })))
        ])
        const id = odd?._tag === "Inserted" ? odd.id : assert.fail()
        yield* Pglite.advance("5 seconds")
        const states = (yield* jobs.list({ worker: ["Fine", "Answer"] }, { limit: 1_000 })).map(({ state }) => state)
        assert.deepStrictEqual([...new Set(states)], ["completed"])
        assert.strictEqual((yield* jobs.get(id)).state, "executing")
        yield* sql`drop trigger refuse on jobs.jobs_history`
        yield* Pglite.advance("1 minute")
        assert.deepInclude(yield* jobs.get(id), { state: "completed", attempt: 1 })
      })
    )
  }
})
