/**
 * Creating and upgrading the tables of `PubSub.layerPostgres` and of durable topics.
 *
 * Their layers run the migrations when they start. Where the application's role may not create tables, run them beforehand
 * with one that may, and grant the application what it needs:
 *
 * ```sql
 * grant usage on schema pubsub to app;
 * grant select, insert, update, delete on all tables in schema pubsub to app;
 * grant usage on all sequences in schema pubsub to app;
 * ```
 *
 * Versions are kept in a table of the same schema. Any number of nodes may start at once: one migrates, the others wait. A
 * schema that is newer than the code is refused; one version back is what running nodes must be able to work with.
 */
import { Context, Effect, Schema } from "effect"
import { Migrator, SqlClient, SqlError } from "effect/sql"
import * as CreatePubSub from "./internal/migrations/0001_create_pubsub.ts"

/** The database schema that holds the tables. Nodes with different ones do not meet. `"pubsub"` unless provided otherwise. */
export const SchemaName = Context.Reference<string>("@coppice/pubsub/SchemaName", { defaultValue: () => "pubsub" })

/** A text that cannot be the name of a database schema here. */
export class InvalidSchemaName extends Schema.TaggedError<InvalidSchemaName>("@coppice/pubsub/InvalidSchemaName")(
  "InvalidSchemaName",
  { name: Schema.String }
) {
  override get message(): string {
    return (
      `${JSON.stringify(this.name)} cannot be the schema of pubsub: use letters, digits and "_", not starting with a`
      + " digit or with pg_, at most 40 characters"
    )
  }
}

/** The database has tables of a newer version of this package, which this version does not know. */
export class SchemaTooNew extends Schema.TaggedError<SchemaTooNew>("@coppice/pubsub/SchemaTooNew")("SchemaTooNew", {
  schema: Schema.String,
  found: Schema.Int,
  known: Schema.Int
}) {
  override get message(): string {
    return (
      `The pubsub tables in schema ${this.schema} have version ${this.found}, and this version of @coppice/pubsub knows`
      + ` up to ${this.known}: upgrade @coppice/pubsub before you start this node`
    )
  }
}

/** The database does not let this role look at the tables, or create them. */
export class MissingRights extends Schema.TaggedError<MissingRights>("@coppice/pubsub/MissingRights")("MissingRights", {
  schema: Schema.String,
  role: Schema.String,
  /** What the database said. */
  problem: Schema.String
}) {
  override get message(): string {
    return (
      `The role ${this.role} may not set up the pubsub tables in schema ${this.schema} (${this.problem}): run`
      + " Migrations.run with a role that may, and grant this one the use of the schema, its tables and its sequences"
    )
  }
}

/** Why the tables could not be made ready. */
export type MigrationsError =
  | InvalidSchemaName
  | SchemaTooNew
  | MissingRights
  | Migrator.MigrationError
  | SqlError.SqlError

/** The schema that `SchemaName` names, as SQL wants it. */
export const quotedSchema: Effect.Effect<string, InvalidSchemaName> = Effect.suspend(() =>
  Effect.flatMap(SchemaName, quoted)
)

/** The version that this code works with. */
export const version = 1

/**
 * Brings the tables in the schema that `SchemaName` names up to date. Where they are, it only looks.
 *
 * ```ts
 * import { Postgres } from "@coppice/postgres"
 * import { Migrations } from "@coppice/pubsub"
 * import { Effect } from "effect"
 *
 * const migrate = Migrations.run.pipe(Effect.provide(Postgres.layer))
 * ```
 */
export const run: Effect.Effect<void, MigrationsError, SqlClient.SqlClient> = Effect.gen(function* () {
  // These tables have the names that this package gives them, whatever the user's client makes of names.
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()
  const name = yield* SchemaName
  const schema = yield* quoted(name)
  const upToDate = Effect.flatMap(currentVersion(sql, name), (found) =>
    found > version
      ? Effect.fail(new SchemaTooNew({ schema: name, found, known: version }))
      : Effect.succeed(found === version)
  )
  const migrate = Effect.gen(function* () {
    // Effect's migrator locks its own table, but not the making of it and of the schema.
    yield* sql`select pg_advisory_xact_lock(hashtextextended(${`coppice/pubsub/${name}`}, 0))`
    if (yield* upToDate) return
    yield* sql.unsafe(`create schema if not exists ${schema}`)
    yield* Migrator.make({})({
      loader: Migrator.fromRecord({ "1_create_pubsub": CreatePubSub.make(schema) }),
      table: `${name}.migrations`
    })
  }).pipe(sql.withTransaction, Effect.provideService(SqlClient.SqlClient, sql))
  yield* Effect.catchIf(
    Effect.flatMap(upToDate, (done) => (done ? Effect.void : migrate)),
    isForbidden,
    (error) =>
      Effect.flatMap(sql<{ readonly role: string }>`select current_user::text as role`, ([row]) =>
        Effect.fail(new MissingRights({ schema: name, role: row?.role ?? "", problem: problemOf(error) }))
      )
  )
})

// --------------------------------------------------------------------------------------------------------------------

/** The name of a schema as SQL wants it. */
const quoted = (name: string): Effect.Effect<string, InvalidSchemaName> =>
  /^[a-z_][a-z0-9_]{0,39}$/i.test(name) && !/^pg_/i.test(name)
    ? Effect.succeed(`"${name}"`)
    : Effect.fail(new InvalidSchemaName({ name }))

/** 0 where there are no tables. */
const currentVersion = Effect.fnUntraced(function* (sql: SqlClient.SqlClient, name: string) {
  // Not `to_regclass`: a session that did not find the schema goes on not finding it until its transaction ends.
  const tables = yield* sql`select 1 from pg_tables where schemaname = ${name} and tablename = 'migrations'`
  if (tables.length === 0) return 0
  const [row] = yield* sql.unsafe<{ readonly version: number | null }>(
    `select max(migration_id) as version from "${name}".migrations`
  )
  return row?.version ?? 0
})

const isForbidden = (error: unknown): boolean => reasonOf(error)?._tag === "AuthorizationError"

const problemOf = (error: unknown): string => {
  const cause = reasonOf(error)?.cause
  return cause instanceof Error ? cause.message : "permission denied"
}

/** What the database said, if it is the database that failed. */
const reasonOf = (error: unknown): SqlError.SqlErrorReason | undefined => {
  if (error instanceof Migrator.MigrationError) return reasonOf(error.cause)
  return SqlError.isSqlError(error) ? error.reason : undefined
}
