import { assert, layer } from "@effect/vitest"
import { type Crontab, Jobs, JobsConfig, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { Context, Duration, Effect, Layer, References } from "effect"
import { SqlClient } from "effect/sql"
import { inserted } from "./fixtures/engine.ts"
import { eventually, liveNode, type Run, task } from "./fixtures/liveNode.ts"

const Database = Postgres.layerTestDatabase({
  template: { name: "jobs", migrate: Migrations.run },
  pool: { maxConnections: 4 }
})

/** Names that only their case tells apart, and the usual one. */
const schemas = ["tenant", "Tenant"] as const
type Schema = (typeof schemas)[number]

/** Longer than anything here takes: whatever moves was told. */
const told = { pollInterval: "1 minute", lease: "20 seconds" } as const

/** Instances whose nodes, queues and workers have the same names; they run what `runs` says. */
const instances = (options: Partial<Omit<Jobs.Options<[]>, "workers">>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const server = yield* Postgres.Server
    const open = (schema: Schema) =>
      Effect.gen(function* () {
        yield* sql`drop schema if exists ${sql(schema)} cascade`
        yield* Migrations.run
        const client = Context.get(yield* Layer.build(Layer.fresh(Jobs.layerClient)), Jobs.Jobs)
        const runs: Array<Run> = []
        const node = yield* liveNode("web", server.url(), runs, options)
        yield* eventually("it listens", node.jobs.status, ({ wakeUp }) => wakeUp === "listen")
        return {
          client,
          node,
          runs,
          /** A job of which nobody is told. */
          insertSilently: sql`
            insert into ${sql(schema)}.jobs (queue, worker, args)
            values ('default', 'Task', '{"millis": 0, "stubborn": false}')`,
          enqueue: (...args: Parameters<typeof task>) => inserted(client.enqueue(task(...args))),
          running: (n: number) =>
            eventually(
              `${n} have begun in ${schema}`,
              Effect.sync(() => runs.length),
              (begun) => begun === n
            )
        }
      }).pipe(Effect.provideService(JobsConfig.SchemaName, schema))
    return { sql, one: yield* open("tenant"), other: yield* open("Tenant") }
  })

const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.provideService(effect, References.MinimumLogLevel, "None"))

/** For what must not happen, as long as it takes elsewhere many times over. */
const aWhile = Effect.sleep("150 millis")

layer(Database, { excludeTestServices: true })("two instances in one database", (it) => {
  it.effect("run their own jobs alone, and end them alone", () =>
    quietly(
      Effect.gen(function* () {
        const { one, other, sql } = yield* instances({ pollInterval: "200 millis", queues: { default: 10 } })
        yield* one.client.enqueueMany(Array.from({ length: 60 }, () => task(0)))
        yield* other.client.enqueueMany(Array.from({ length: 25 }, () => task(0, { scheduleIn: "50 millis" })))
        for (const [instance, n] of [
          [one, 60],
          [other, 25]
        ] as const) {
          yield* eventually(
            "all are completed",
            instance.client.list({ state: "completed" }, { limit: 100 }),
            (done) => done.length === n
          )
          assert.lengthOf(instance.runs, n)
        }
        // The same numbers are other jobs.
        const id = (yield* one.client.list({}, { limit: 1 }))[0]?.id ?? assert.fail()
        assert.strictEqual(yield* one.client.delete({ worker: "Task" }), 60)
        assert.strictEqual((yield* other.client.list({}, { limit: 100 })).length, 25)
        assert.strictEqual((yield* Effect.flip(one.client.get(id)))._tag, "JobNotFound")
        const [nodes] = yield* sql`
          select (select count(*) from tenant.nodes where stopped_at is null)::int4 as one,
                 (select count(*) from "Tenant".nodes where stopped_at is null)::int4 as other,
                 (select count(*) from jobs.jobs_history)::int4 as usual`
        assert.deepStrictEqual(nodes, { one: 1, other: 1, usual: 0 })
      })
    )
  )

  it.effect("are not told of each other's jobs", () =>
    quietly(
      Effect.gen(function* () {
        const { one, other } = yield* instances(told)
        // Until one is not found: at its start a node looks a few times.
        let unheard = 0
        while (other.runs.length === unheard) {
          assert.isBelow(unheard, 20)
          yield* other.insertSilently
          unheard++
          yield* aWhile
          if (other.runs.length < unheard) break
        }
        const found = other.runs.length
        for (let n = 1; n <= 10; n++) {
          yield* one.enqueue(0)
          yield* one.running(n)
        }
        yield* aWhile
        assert.lengthOf(other.runs, found)
        // It would have been told.
        yield* other.enqueue(0)
        yield* other.running(unheard + 1)
        assert.lengthOf(one.runs, 10)
      })
    )
  )

  it.effect("cancel, pause, scale and limit their own", () =>
    quietly(
      Effect.gen(function* () {
        const { one, other } = yield* instances(told)
        const both = [one, other] as const
        for (const { enqueue } of both) yield* enqueue()
        for (const { running } of both) yield* running(1)
        assert.deepStrictEqual(yield* one.client.cancel({}), { cancelled: 0, requested: 1 })
        yield* eventually(
          "it is cancelled",
          one.client.list({ state: "cancelled" }),
          (cancelled) => cancelled.length === 1
        )
        yield* one.client.pause("default")
        yield* one.client.pause("default", { node: "web" })
        yield* one.client.scale("default", 1)
        yield* one.client.limit("default", { global: 0 })
        yield* eventually("it is paused", one.node.jobs.status, ({ queues }) => queues["default"]?.paused === true)
        for (const { enqueue } of both) yield* enqueue()
        yield* other.running(2)
        yield* aWhile
        assert.lengthOf(one.runs, 1)
        assert.deepStrictEqual(
          other.runs.map(({ how }) => how),
          [undefined, undefined]
        )
        assert.deepInclude((yield* other.node.jobs.status).queues["default"], { paused: false, limit: 5 })
        const [queue] = yield* other.client.queues
        assert.deepInclude(queue, { paused: false, pausedOn: [], limit: undefined, executing: 2 })
        assert.isUndefined(queue?.limits.global)
      })
    )
  )

  it.effect("have each their crontab", () =>
    quietly(
      Effect.gen(function* () {
        const { one, other } = yield* instances(told)
        const entry: Crontab.Entry = { name: "tick", expression: "* * * * * *", job: task(0) }
        yield* one.client.cron.create(entry)
        yield* one.running(2)
        assert.lengthOf(other.runs, 0)
        assert.deepStrictEqual(yield* other.client.cron.list, [])
        for (const change of [
          other.client.cron.delete("tick"),
          other.client.cron.pause("tick"),
          other.client.cron.runNow("tick")
        ]) {
          assert.strictEqual((yield* Effect.flip(change))._tag, "EntryNotFound")
        }
        // The same name is another entry.
        yield* other.client.cron.create({ ...entry, expression: "0 0 1 1 *" })
        yield* one.client.cron.delete("tick")
        assert.deepStrictEqual(
          (yield* other.client.cron.list).map(({ expression }) => expression),
          ["0 0 1 1 *"]
        )
        yield* other.client.cron.runNow("tick")
        yield* other.running(1)
      })
    )
  )

  it.effect("rescue nothing of each other, and a unique key is one in each", () =>
    quietly(
      Effect.gen(function* () {
        const { one, other, sql } = yield* instances({ lease: "1500 millis", pollInterval: "200 millis" })
        const unique = { unique: {} }
        const ids = [yield* one.enqueue(60_000, unique), yield* other.enqueue(60_000, unique)]
        assert.lengthOf(ids, 2)
        assert.strictEqual((yield* one.client.enqueue(task(60_000, unique)))._tag, "Conflict")
        yield* one.running(1)
        yield* other.running(1)
        // To the other instance, this one's node is one that never was.
        yield* Effect.sleep("2 seconds")
        for (const { client, node, runs } of [one, other]) {
          assert.lengthOf(runs, 1)
          assert.deepStrictEqual(
            node.events.filter(({ _tag }) => _tag === "LeaseLost" || _tag === "Rescued"),
            []
          )
          assert.deepStrictEqual(
            (yield* client.list()).map(({ state, rescues }) => [state, rescues]),
            [["executing", 0]]
          )
          const age = (yield* node.jobs.status).heartbeatAge ?? Duration.infinity
          assert.isBelow(Duration.toMillis(age), 1_500)
        }
        const [keys] = yield* sql`
          select (select count(*) from tenant.unique_keys)::int4 as one, (select count(*) from "Tenant".unique_keys)::int4 as other`
        assert.deepStrictEqual(keys, { one: 1, other: 1 })
      })
    )
  )
})
