import { Postgres } from "@coppice/postgres"
import { Migrations } from "@coppice/pubsub"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Redacted, String } from "effect"
import { SqlClient } from "effect/sql"
import { eventually, gaps, hear, node, numbers, quietly } from "./fixtures/nodes.ts"

const run = (schema: string) => Effect.provideService(Migrations.run, Migrations.SchemaName, schema)

/** Another client of the same database. */
const connect = Effect.fnUntraced(function* (options: PgClient.PgPoolConfig = {}) {
  const server = yield* Postgres.Server
  return PgClient.layer({ url: server.url(), ...options })
})

layer(Postgres.layerTestDatabase({ pool: { maxConnections: 2 } }), { excludeTestServices: true })(
  "migrations on several connections",
  (it) => {
    it.effect("run once when 10 nodes start at the same time on an empty database", () =>
      Effect.scoped(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          for (let round = 0; round < 4; round++) {
            const name = `race_${round}`
            // As a database whose transactions see only what was there when they began.
            const other = yield* connect({
              maxConnections: 1,
              startupParameters: round % 2 === 0 ? {} : { default_transaction_isolation: "repeatable read" }
            })
            // Connected before the first of them begins.
            const nodes = yield* Effect.forEach(
              Array.from({ length: 10 }),
              () =>
                Effect.tap(Layer.build(Layer.fresh(other)), (context) =>
                  Effect.provide(
                    SqlClient.SqlClient.use((each) => each`select 1`),
                    context
                  )
                ),
              { concurrency: "unbounded" }
            )
            yield* Effect.forEach(nodes, (each) => Effect.provide(run(name), each), { concurrency: "unbounded" })
            assert.strictEqual((yield* sql.unsafe(`select 1 from ${name}.migrations`)).length, 1)
          }
        })
      )
    )

    it.effect("tell a role that may not create tables what to do; with what is documented a node works", () =>
      quietly(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const server = yield* Postgres.Server
          const role = new URL(Redacted.value(server.url())).pathname.slice(1)
          yield* Effect.acquireRelease(sql.unsafe(`create role "${role}" login`), () =>
            Effect.orDie(Effect.andThen(sql.unsafe(`drop owned by "${role}"`), sql.unsafe(`drop role "${role}"`)))
          )
          const asRole = yield* connect({ maxConnections: 1, startupOptions: `-c role=${role}` })
          const refused = Effect.gen(function* () {
            const error = yield* Effect.flip(Effect.provide(Migrations.run, asRole))
            assert.instanceOf(error, Migrations.MissingRights)
            assert.strictEqual(error.role, role)
            assert.include(
              error.message,
              `The role ${role} may not set up the pubsub tables in schema pubsub (permission denied`
            )
          })
          // It may not create a schema; then it may not use it; then it may not read in it.
          yield* refused
          yield* Migrations.run
          yield* refused
          yield* sql.unsafe(`grant usage on schema pubsub to "${role}"`)
          yield* refused
          yield* sql.unsafe(`grant select, insert, update, delete on all tables in schema pubsub to "${role}"`)
          yield* sql.unsafe(`grant usage on all sequences in schema pubsub to "${role}"`)
          const url = new URL(Redacted.value(server.url()))
          url.searchParams.set("options", `-c role=${role}`)
          const [one, two] = yield* Effect.all([
            node(Redacted.make(url.href), { attachmentTtl: "100 millis" }),
            node(Redacted.make(url.href))
          ])
          const heard = yield* hear(two)
          yield* one.broadcast(0, "a".repeat(10_000))
          yield* eventually("a large event is heard", () => numbers(heard).length === 1)
          yield* Effect.repeat(sql`select 1 from pubsub.attachments`, { until: ({ length }) => length === 0 })
          // What was granted is taken away: large events are lost, which is told, and small ones go on.
          yield* sql.unsafe(`revoke insert on pubsub.attachments from "${role}"`)
          yield* one.broadcast(1, "a".repeat(10_000))
          yield* one.broadcast(2)
          yield* eventually("the small one is heard", () => numbers(heard).length === 2)
          assert.deepStrictEqual(
            heard.map((message) => (message._tag === "Event" ? message.event.n : message._tag)),
            [0, "Gap", 2]
          )
          yield* sql.unsafe(`grant insert on pubsub.attachments to "${role}"`)
          yield* sql.unsafe(`revoke select on pubsub.attachments from "${role}"`)
          yield* one.broadcast(3, "a".repeat(10_000))
          yield* one.broadcast(4)
          yield* eventually("the small one is heard", () => numbers(heard).length === 3)
          assert.deepStrictEqual(
            heard.map((message) => (message._tag === "Event" ? message.event.n : message._tag)),
            [0, "Gap", 2, "Gap", 4]
          )
          assert.deepStrictEqual(gaps(heard), ["missed", "missed"])
        })
      )
    )

    it.effect("do not care how a client names things", () =>
      Effect.scoped(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const snake = yield* connect({
            transformQueryNames: String.camelToSnake,
            transformResultNames: String.snakeToCamel
          })
          yield* Effect.provide(Effect.andThen(run("camelCase"), run("camelCase")), snake)
          assert.strictEqual((yield* sql`select 1 from "camelCase".migrations`).length, 1)
        })
      )
    )
  }
)
