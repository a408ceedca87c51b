import { Jobs, Migrations, Runner, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient, PgTypes } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Clock, DateTime, Duration, Effect, Layer, References, Result, Schema } from "effect"
import { eventually } from "./fixtures/liveNode.ts"

class Echo extends Worker.Service<Echo>()("Echo", {
  args: { nodeName: Schema.String },
  result: Schema.Struct({ nodeName: Schema.String, waitedMillis: Schema.Finite })
}) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ args, attemptedAt, insertedAt }) =>
      Effect.succeed({
        nodeName: args.nodeName,
        waitedMillis: Duration.toMillis(DateTime.distance(insertedAt, attemptedAt))
      })
    )
  )
}

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
const written = (write: (view: DataView) => void): Uint8Array => {
  const bytes = new Uint8Array(8)
  write(view(bytes))
  return bytes
}
const epoch = Date.UTC(2000, 0, 1)

/** Times and large integers as numbers, and nothing else in their place; numbers with a point as text. */
const types = PgTypes.makeRegistry()
types.register<number>(PgTypes.OID.timestamptz, {
  encode: (value) =>
    typeof value === "number"
      ? Result.succeed(written((view) => view.setBigInt64(0, BigInt(value - epoch) * 1_000n)))
      : Result.fail(new PgTypes.CodecError({ message: "instants are numbers here" })),
  decode: (bytes) => Result.succeed(Number(view(bytes).getBigInt64(0) / 1_000n) + epoch)
})
types.register<number>(PgTypes.OID.int8, {
  encode: (value) => Result.succeed(written((view) => view.setBigInt64(0, BigInt(value)))),
  decode: (bytes) => Result.succeed(Number(view(bytes).getBigInt64(0)))
})
types.register<string | number>(PgTypes.OID.float8, {
  encode: (value) => Result.succeed(written((view) => view.setFloat64(0, Number(value)))),
  decode: (bytes) => Result.succeed(String(view(bytes).getFloat64(0)))
})

const camel = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** An application that has made its client to its own taste. */
const Peculiar = Layer.unwrap(
  Effect.map(Postgres.Server, (server) =>
    PgClient.layer({
      url: server.url(),
      maxConnections: 4,
      types,
      transformResultNames: camel,
      transformQueryNames: snake,
      transformJson: true,
      multiplex: true,
      prepare: false,
      idleTimeout: "1 millis",
      connectionTTL: 0
    })
  )
)

const Server = Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run } })

const quietly = Effect.provideService(References.MinimumLogLevel, "None")

const digest = { name: "digest", expression: "0 3 * * *", job: Echo.job({ nodeName: "cron" }) }

layer(Server, { excludeTestServices: true })("an application's client with codecs and names of its own", (it) => {
  it.effect("is good enough for a node, and for everything that is asked of the service", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const since = yield* Clock.currentTimeMillis
      yield* eventually("it listens", jobs.status, ({ wakeUp }) => wakeUp === "listen")
      const run = yield* Echo.enqueue({ nodeName: "a" })
      const [later] = yield* Echo.enqueueMany([{ nodeName: "b" }], {
        scheduleIn: "1 hour",
        unique: { period: "1 day" }
      })
      const again = yield* Echo.enqueue({ nodeName: "b" }, { unique: { period: "1 day" } })
      if (later?._tag !== "Inserted") return assert.fail(`not inserted: ${later?._tag}`)
      assert.deepInclude(again, { _tag: "Conflict", id: later.id })
      if (run._tag !== "Inserted") return assert.fail(`not inserted: ${run._tag}`)

      const done = yield* eventually("it is completed", jobs.get(run.id), ({ state }) => state === "completed")
      assert.strictEqual(done.id, run.id)
      assert.deepInclude(done.result, { nodeName: "a" })
      for (const at of [done.insertedAt, done.scheduledAt, done.attemptedAt, done.finishedAt]) {
        if (at === undefined || !DateTime.isUtc(at)) return assert.fail("an instant is missing")
        assert.approximately(DateTime.toEpochMillis(at), since, 20_000)
      }
      const [newest] = yield* jobs.list({ id: later.id })
      assert.deepInclude(newest, { id: later.id, state: "scheduled", lease: 0, args: { nodeName: "b" } })
      assert.deepInclude((yield* jobs.queues)[0], { name: "default", scheduled: 1 })

      yield* jobs.cron.create({ ...digest, name: "dynamic" })
      const fired = yield* jobs.cron.runNow("digest")
      yield* eventually("the cron job is completed", jobs.get(fired), ({ state }) => state === "completed")
      yield* jobs.cron.change("dynamic", { expression: "0 4 * * *" })
      const entries = yield* jobs.cron.list
      assert.deepStrictEqual(
        entries.map(({ name, nextFire }) => [
          name,
          nextFire === undefined ? undefined : DateTime.getPartUtc(nextFire, "hour")
        ]),
        [
          ["digest", 3],
          ["dynamic", 4]
        ]
      )
      assert.deepStrictEqual(yield* jobs.retry({ id: run.id }), { retried: 1, conflicts: 0 })
      yield* eventually(
        "it is completed again",
        jobs.get(run.id),
        ({ attempt, state }) => state === "completed" && attempt === 2
      )
      assert.deepStrictEqual(yield* jobs.cancel({ id: later.id }), { cancelled: 1, requested: 0 })
      assert.strictEqual(yield* jobs.delete({ id: later.id }), 1)
    }).pipe(
      Effect.provide(
        Jobs.layer({ queues: { default: 2 }, workers: [Echo.layer], cron: [digest], pollInterval: "200 millis" }).pipe(
          Layer.provide(Peculiar)
        )
      ),
      quietly
    )
  )

  it.effect("is good enough for a runner", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const runner = yield* Runner.Runner
      const soon = yield* Echo.enqueue({ nodeName: "soon" }, { scheduleIn: "1 hour" })
      if (soon._tag !== "Inserted") return assert.fail(`not inserted: ${soon._tag}`)
      const until = DateTime.makeUnsafe((yield* Clock.currentTimeMillis) + 7_200_000)
      const { completed } = yield* runner.drain({ withScheduled: until })
      assert.strictEqual(completed, 1)
      assert.deepInclude((yield* jobs.get(soon.id)).result, { nodeName: "soon" })
    }).pipe(
      Effect.provide(Runner.layer({ workers: [Echo.layer], cron: [digest] }).pipe(Layer.provide(Peculiar))),
      quietly
    )
  )
})
