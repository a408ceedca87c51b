/**
 * Creating and upgrading the tables of the queue.
 *
 * `Jobs.layer` runs the migrations when it starts; run them beforehand where the application's role may not. Versions are
 * kept in a table of the same schema. Any number of nodes may start at once: one migrates, the others wait. A schema that
 * is newer than the code is refused, one version back is what running nodes must be able to work with.
 */
import { Effect, Schema } from "effect"
import { Migrator, SqlClient, type SqlError } from "effect/sql"
import { type InvalidSchemaName, make } from "./internal/database.ts"
import * as CreateJobs from "./internal/migrations/0001_create_jobs.ts"
import { SchemaName } from "./JobsConfig.ts"

export { InvalidSchemaName } from "./internal/database.ts"

/** The database has tables of a newer version of this package, which this version does not know. */
export class SchemaTooNew extends Schema.TaggedError<SchemaTooNew>("@coppice/jobs/SchemaTooNew")("SchemaTooNew", {
  schema: Schema.String,
  found: Schema.Int,
  known: Schema.Int
}) {
  override get message(): string {
    return (
      `The job tables in schema ${this.schema} have version ${this.found}, and this version of @coppice/jobs knows`
      + ` up to ${this.known}: upgrade @coppice/jobs before you start this node`
    )
  }
}

/** The version that this code works with. */
export const version = 1

/**
 * Brings the tables in the schema that `JobsConfig.SchemaName` names up to date.
 *
 * ```ts
 * import { Migrations } from "@coppice/jobs"
 * import { Postgres } from "@coppice/postgres"
 * import { Effect } from "effect"
 *
 * const migrate = Migrations.run.pipe(Effect.provide(Postgres.layer))
 * ```
 */
export const run: Effect.Effect<
  void,
  InvalidSchemaName | SchemaTooNew | Migrator.MigrationError | SqlError.SqlError,
  SqlClient.SqlClient
> = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const name = yield* SchemaName
  const { schema } = yield* make(sql, name, "database")
  yield* Effect.gen(function* () {
    // Effect's migrator locks its own table, but not the making of it and of the schema.
    yield* sql`select pg_advisory_xact_lock(hashtextextended(${`coppice/jobs/${name}`}, 0))`
    yield* sql.unsafe(`create schema if not exists ${schema}`)
    const found = yield* currentVersion(sql, schema)
    if (found > version) return yield* new SchemaTooNew({ schema: name, found, known: version })
    if (found === version) return
    yield* Migrator.make({})({
      loader: Migrator.fromRecord({ "1_create_jobs": CreateJobs.make(schema) }),
      table: `${name}.migrations`
    })
  }).pipe(sql.withTransaction)
})

const currentVersion = Effect.fnUntraced(function* (sql: SqlClient.SqlClient, schema: string) {
  const [table] = yield* sql<{ readonly found: boolean }>`
    select to_regclass(${`${schema}.migrations`}) is not null as found`.withoutTransform
  if (table?.found !== true) return 0
  const [row] = yield* sql.unsafe<{ readonly version: number | null }>(
    `select max(migration_id) as version from ${schema}.migrations`
  ).withoutTransform
  return row?.version ?? 0
})
