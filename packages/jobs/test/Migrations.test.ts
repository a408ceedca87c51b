import { JobsConfig, Migrations } from "@coppice/jobs"
import { Sandbox } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import { EmptyDatabase } from "./fixtures/engine.ts"

const run = (schema: string) => Effect.provideService(Migrations.run, JobsConfig.SchemaName, schema)

layer(EmptyDatabase)("migrations", (it) => {
  it.effect("create the tables once, however often they run", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrations.run
      yield* sql`insert into jobs.jobs (queue, worker) values ('default', 'Test')`
      yield* Migrations.run
      yield* Migrations.run
      assert.strictEqual((yield* sql`select 1 from jobs.jobs`).length, 1)
      assert.deepStrictEqual(yield* sql`select migration_id, name from jobs.migrations`, [
        { migration_id: Migrations.version, name: "create_jobs" }
      ])
    }).pipe(Effect.provide(Sandbox.layer))
  )

  it.effect("keep schemas of one database apart, whatever their names", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const names = ["jobs", "Jobs", "jobs_2", "_", "select", "public", "n".repeat(40)]
      for (const name of names) yield* run(name)
      for (const name of names) yield* run(name)
      yield* sql`insert into "Jobs".jobs (queue, worker) values ('default', 'Test')`
      for (const name of names) {
        const rows = yield* sql.unsafe(`select 1 from "${name}".jobs`)
        assert.strictEqual(rows.length, name === "Jobs" ? 1 : 0)
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
        "pg_jobs",
        "PG_x",
        "n".repeat(41),
        "a.b",
        "é",
        "a\n"
      ]) {
        const error = yield* Effect.flip(run(name))
        assert.instanceOf(error, Migrations.InvalidSchemaName, name)
        assert.include(error.message, "cannot be the schema of a job queue")
      }
    })
  )

  it.effect("refuse tables of a newer version, and leave them as they are", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrations.run
      yield* sql`insert into jobs.migrations (migration_id, name) values (${Migrations.version + 1}, 'future')`
      const error = yield* Effect.flip(Migrations.run)
      assert.instanceOf(error, Migrations.SchemaTooNew)
      assert.deepInclude({ ...error }, { schema: "jobs", found: Migrations.version + 1, known: Migrations.version })
      assert.include(error.message, "upgrade @coppice/jobs before you start this node")
    }).pipe(Effect.provide(Sandbox.layer))
  )

  it.effect("leave nothing behind when they fail", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`create schema jobs`
      // In the way of the last of the tables.
      yield* sql`create table jobs.cron_entries (name text)`
      const error = yield* Effect.flip(Migrations.run)
      assert.strictEqual(error._tag, "MigrationError")
      assert.strictEqual((yield* sql`select 1 from pg_tables where schemaname = 'jobs'`).length, 1)
      yield* sql`drop table jobs.cron_entries`
      yield* Migrations.run
    }).pipe(Effect.provide(Sandbox.layer))
  )
})
