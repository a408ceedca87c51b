import { Postgres, Sandbox } from "@coppice/postgres"
import { Migrations } from "@coppice/pubsub"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"

const run = (schema: string) => Effect.provideService(Migrations.run, Migrations.SchemaName, schema)

layer(Postgres.layerTest)("migrations", (it) => {
  it.effect("create the tables once, however often they run", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrations.run
      yield* sql`insert into pubsub.attachments (node, seq, body) values ('a', 1, 'b')`
      yield* Migrations.run
      yield* Migrations.run
      assert.strictEqual((yield* sql`select 1 from pubsub.attachments`).length, 1)
      assert.deepStrictEqual(yield* sql`select migration_id, name from pubsub.migrations`, [
        { migration_id: Migrations.version, name: "create_pubsub" }
      ])
    }).pipe(Effect.provide(Sandbox.layer))
  )

  it.effect("keep schemas of one database apart, whatever their names", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const names = ["pubsub", "PubSub", "pubsub_2", "_", "select", "public", "n".repeat(40)]
      for (const name of names) yield* run(name)
      for (const name of names) yield* run(name)
      yield* sql`insert into "PubSub".attachments (node, seq, body) values ('a', 1, 'b')`
      for (const name of names) {
        const rows = yield* sql.unsafe(`select 1 from "${name}".attachments`)
        assert.strictEqual(rows.length, name === "PubSub" ? 1 : 0)
      }
    }).pipe(Effect.provide(Sandbox.layer))
  )

  it.effect("refuse names that cannot be a schema, and send nothing of them to the database", () =>
    Effect.gen(function* () {
      for (const name of [
        "",
        "1a",
        "a-b",
        'a"; drop table users; --',
        "pg_pubsub",
        "PG_x",
        "n".repeat(41),
        "a.b",
        "é",
        "a\n"
      ]) {
        const error = yield* Effect.flip(run(name))
        assert.instanceOf(error, Migrations.InvalidSchemaName, name)
        assert.include(error.message, "cannot be the schema of pubsub")
      }
    })
  )

  it.effect("refuse tables of a newer version, and leave them as they are", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrations.run
      yield* sql`insert into pubsub.migrations (migration_id, name) values (${Migrations.version + 1}, 'future')`
      const error = yield* Effect.flip(Migrations.run)
      assert.instanceOf(error, Migrations.SchemaTooNew)
      assert.deepInclude({ ...error }, { schema: "pubsub", found: Migrations.version + 1, known: Migrations.version })
      assert.include(error.message, "upgrade @coppice/pubsub before you start this node")
    }).pipe(Effect.provide(Sandbox.layer))
  )

  it.effect("leave nothing behind when they fail", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`create schema pubsub`
      // In the way of the last of the tables.
      yield* sql`create table pubsub.positions (topic text)`
      const error = yield* Effect.flip(Migrations.run)
      assert.strictEqual(error._tag, "MigrationError")
      assert.strictEqual((yield* sql`select 1 from pg_tables where schemaname = 'pubsub'`).length, 1)
      yield* sql`drop table pubsub.positions`
      yield* Migrations.run
    }).pipe(Effect.provide(Sandbox.layer))
  )
})
