/**
 * Databases for tests of real concurrency: one server per test run, and a new database per layer.
 *
 * The server is the one that `DATABASE_URL` names, else an embedded one. The global setup
 * `@coppice/postgres/testing/global-setup` starts it, and removes what the tests leave.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { createHash, randomBytes } from "node:crypto"
import { connect, connectOnce, type PoolOptions, Server, unreachable, withDatabase } from "./internal/database.ts"
import * as TestServer from "./internal/testServer.ts"
import { PostgresUnavailable } from "./PostgresError.ts"

/** What a test database starts with. */
export interface Options<E = never, R = never> {
  /** The database to copy; an empty one when omitted. */
  readonly template?: Template<E, R> | undefined
  /** Settings of the connection pool. */
  readonly pool?: PoolOptions | undefined
}

/** A database that is prepared once per test run, and copied for every layer that names it. */
export interface Template<E = never, R = never> {
  /** Tells templates apart; the same name must always come with the same migrations. */
  readonly name: string
  /** Prepares the database, for example by running migrations. */
  readonly migrate: Effect.Effect<unknown, E, R>
}

/**
 * A database of its own, with a connection pool, dropped with the scope. Build it once per test file.
 *
 * `Server.url()` is what child processes get as `DATABASE_URL`. The pool is timed by the live clock.
 */
export const layer = <E = never, R = never>(
  options: Options<E, R> = {}
): Layer.Layer<
  PgClient.PgClient | SqlClient | Server,
  E | PostgresUnavailable,
  Exclude<R, PgClient.PgClient | SqlClient>
> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const run = yield* Effect.mapError(TestServer.find, (reason) => new PostgresUnavailable({ reason }))
      const admin = Redacted.make(run.url)
      // Neither a count nor the process tells the threads of one process apart.
      const name = `${run.prefix}_${randomBytes(8).toString("hex")}`
      const template = options.template === undefined ? "template1" : yield* prepare(run, options.template)
      yield* Effect.acquireRelease(
        execute(admin, `create database "${name}" template "${template}" strategy file_copy`),
        // What cannot be dropped now is dropped with the run.
        () => Effect.ignore(execute(admin, `drop database if exists "${name}" with (force)`))
      )
      const url = withDatabase(admin, name)
      return Layer.merge(
        PgClient.layerFrom(reported(url, connect(url, { maxConnections: 5, ...options.pool }))),
        Layer.succeed(Server, {
          embedded: false,
          url: (database) => (database === undefined ? url : withDatabase(url, database))
        })
      )
    })
  )

/** Makes the template, unless another file of the run has; whoever comes meanwhile waits. */
const prepare = Effect.fnUntraced(function* <E, R>(run: TestServer.TestServer, template: Template<E, R>) {
  const admin = Redacted.make(run.url)
  // Of a longer name PostgreSQL keeps 63 bytes, which may be another template's.
  const name = `${run.prefix}_template_${createHash("sha256").update(template.name).digest("hex").slice(0, 12)}`
  const draft = `${name}_new`
  const client = yield* connectOnce(admin)
  // The lock goes with the connection.
  yield* reported(admin, client`select pg_advisory_lock(hashtext(${name}))`)
  const found = yield* reported(admin, client`select 1 from pg_database where datname = ${name}`)
  if (found.length > 0) return name
  yield* reported(admin, client.unsafe(`drop database if exists "${draft}" with (force)`))
  yield* reported(admin, client.unsafe(`create database "${draft}"`))
  const url = withDatabase(admin, draft)
  yield* Effect.provide(template.migrate, PgClient.layerFrom(reported(url, connect(url))))
  yield* reported(admin, client.unsafe(`alter database "${draft}" rename to "${name}"`))
  return name
}, Effect.scoped)

const execute = (url: Redacted.Redacted, statement: string) =>
  Effect.scoped(Effect.flatMap(connectOnce(url), (client) => reported(url, client.unsafe(statement))))

const reported = <A, R>(url: Redacted.Redacted, effect: Effect.Effect<A, SqlError, R>) =>
  Effect.mapError(effect, (error) => unreachable(url, error))
