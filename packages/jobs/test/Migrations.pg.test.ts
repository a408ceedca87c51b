import { JobsConfig, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Redacted, String } from "effect"
import { SqlClient } from "effect/sql"
import { Mail, setUp } from "./fixtures/enqueue.ts"

const run = (schema: string) => Effect.provideService(Migrations.run, JobsConfig.SchemaName, schema)

/** Another client of the same database. */
const connect = Effect.fnUntraced(function* (options: PgClient.PgPoolConfig = {}) {
  const server = yield* Postgres.Server
  return PgClient.layer({ url: server.url(), ...options })
})

layer(Postgres.layerTestDatabase({ pool: { maxConnections: 2 } }))("migrations on several connections", (it) => {
  it.effect("run once when 20 nodes start at the same time on an empty database", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      for (let round = 0; round < 4; round++) {
        const name = `race_${round}`
        // As a database whose transactions see only what was there when they began.
        const node = yield* connect({
          maxConnections: 1,
          startupParameters: round % 2 === 0 ? {} : { default_transaction_isolation: "repeatable read" }
        })
        // Connected before the first of them begins.
        const nodes = yield* Effect.forEach(
          Array.from({ length: 20 }),
          () =>
            Effect.tap(Layer.build(Layer.fresh(node)), (context) =>
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

  it.effect("tell a role that may not create tables what to do", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const server = yield* Postgres.Server
      const role = new URL(Redacted.value(server.url())).pathname.slice(1)
      yield* sql.unsafe(`create role "${role}" login`)
      yield* Effect.addFinalizer(() =>
        Effect.orDie(Effect.andThen(sql.unsafe(`drop owned by "${role}"`), sql.unsafe(`drop role "${role}"`)))
      )
      const asRole = yield* connect({ maxConnections: 1, startupOptions: `-c role=${role}` })
      const refused = Effect.gen(function* () {
        const error = yield* Effect.flip(Effect.provide(Migrations.run, asRole))
        assert.instanceOf(error, Migrations.MissingRights)
        assert.strictEqual(error.role, role)
        assert.include(
          error.message,
          `The role ${role} may not set up the job tables in schema jobs (permission denied`
        )
      })
      // It may not create a schema; then it may not use it; then it may not read in it.
      yield* refused
      yield* Migrations.run
      yield* refused
      yield* sql.unsafe(`grant usage on schema jobs to "${role}"`)
      yield* refused
      // With what the documentation grants, tables that exist are enough, and jobs can be enqueued.
      yield* sql.unsafe(`grant select, insert, update, delete on all tables in schema jobs to "${role}"`)
      yield* sql.unsafe(`grant usage on all sequences in schema jobs to "${role}"`)
      const { _tag } = yield* Effect.gen(function* () {
        yield* Migrations.run
        const { enqueue } = yield* setUp
        return yield* enqueue(Mail.job({ to: "ada" }, { unique: {} }))
      }).pipe(Effect.provide(asRole))
      assert.strictEqual(_tag, "Inserted")
    })
  )

  it.effect("do not care how a client names things", () =>
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

  it.effect("join the transaction that is open", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Effect.flip(sql.withTransaction(Effect.andThen(run("undone"), Effect.fail("no"))))
      assert.deepStrictEqual(yield* sql`select 1 from pg_namespace where nspname = 'undone'`, [])
    })
  )
})
