/** Databases and sessions of the benchmark's own; what goes wrong with them is a defect. */
import { PgConnection, PgPool } from "@effect/sql-pg"
import { Effect, Redacted, Schema, type Scope } from "effect"
import { randomBytes } from "node:crypto"

/** One session of a database, on which statements run one after another. */
export const session = (url: string): Effect.Effect<PgConnection.PgConnection, never, Scope.Scope> =>
  Effect.orDie(PgConnection.make({ url: Redacted.make(url) }))

/** As many sessions of a database as enqueue at a time in every implementation. */
export const pool = (url: string): Effect.Effect<PgPool.PgPool, never, Scope.Scope> =>
  Effect.orDie(PgPool.make({ url: Redacted.make(url), maxConnections: producerConnections }))

/** How many connections a producer may open. */
export const producerConnections = 10

/** A new database on the server of `url`, dropped with the scope. */
export const fresh = (url: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.gen(function* () {
    const name = `bench_${randomBytes(6).toString("hex")}`
    yield* Effect.acquireRelease(once(url, `create database ${name}`), () =>
      once(url, `drop database ${name} with (force)`)
    )
    const database = new URL(url)
    database.pathname = `/${name}`
    return database.href
  })

/** Runs statements one after another in a session of their own. */
const once = (url: string, ...statements: ReadonlyArray<string>): Effect.Effect<void> =>
  Effect.scoped(Effect.flatMap(session(url), (connection) => inOrder(connection, statements)))

/** Runs statements without parameters one after another. */
export const inOrder = (
  connection: PgConnection.PgConnection,
  statements: ReadonlyArray<string>
): Effect.Effect<void> =>
  Effect.orDie(Effect.forEach(statements, (statement) => connection.query(statement, [], false), { discard: true }))

/** A statement that is prepared once, and its rows as a schema sees them. */
export const rows = <A>(
  connection: PgConnection.PgConnection,
  row: Schema.Decoder<A>,
  statement: string,
  parameters: ReadonlyArray<unknown> = []
): Effect.Effect<ReadonlyArray<A>> =>
  connection.query(statement, parameters).pipe(
    Effect.flatMap((result) => Schema.decodeUnknownEffect(Schema.Array(row))(result.rows)),
    Effect.orDie
  )

/** Whether a query finds a row. */
export const finds = (connection: PgConnection.PgConnection, query: string): Effect.Effect<boolean> =>
  Effect.orDie(Effect.map(connection.query(query), (result) => result.rows.length > 0))
