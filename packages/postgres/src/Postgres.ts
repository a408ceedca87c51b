/**
 * The database of an application, as one layer.
 *
 * `Postgres.layer` uses the server that `DATABASE_URL` names. Without `DATABASE_URL` it starts a real PostgreSQL of
 * its own, which is gone when the layer's scope closes or the process ends, in whatever way.
 */
import { PgClient } from "@effect/sql-pg"
import { Config, Effect, Layer, Option, Redacted } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import { isSqlError } from "effect/sql/SqlError"
import { connect, describe, type PoolOptions, Server, unreachable, withDatabase } from "./internal/database.ts"
import * as EmbeddedServer from "./internal/server.ts"
import * as Pglite from "./Pglite.ts"
import { InvalidDatabaseUrl, PostgresUnavailable, ServerUnreachable } from "./PostgresError.ts"
import * as TestDatabase from "./TestDatabase.ts"

export { connect, type PoolOptions, Server }

/** How `layerWith` finds its database. */
export interface Options extends ServerOptions {
  /** Settings of the connection pool; by default up to 10 connections, closed after 60 idle seconds. */
  readonly pool?: PoolOptions | undefined
}

/** How the embedded server runs; nothing of this matters when `DATABASE_URL` is set. */
export interface ServerOptions {
  /** Where the data is kept: by default what `DATABASE_DIR` says, else `.data/postgres` in the working directory. */
  readonly dataDir?: string | undefined
  /** A new, empty database that is removed with the scope, and that no crash of the machine needs to survive. */
  readonly temporary?: boolean | undefined
  /** PostgreSQL settings, such as `{ log_min_duration_statement: "100ms", logging_collector: "on" }`. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  /** The folder of other `initdb` and `postgres` programs than those of the npm packages. */
  readonly binaries?: string | undefined
}

/**
 * `PgClient` and `SqlClient` for the server of `layerServer`, through one connection pool.
 *
 * The pool is timed by the live clock, because sockets are: `TestClock.adjust` neither expires nor delays it. A server
 * that `DATABASE_URL` names is asked for its version first: the layer fails if it does not answer or is older than 15.
 */
export const layerWith = (
  options: Options = {}
): Layer.Layer<PgClient.PgClient | SqlClient | Server, PostgresUnavailable> =>
  PgClient.layerFrom(
    Effect.gen(function* () {
      const { embedded, url } = yield* Server
      const connected = Effect.mapError(connect(url(), options.pool), (error) => unreachable(url(), error))
      return yield* embedded ? connected : Effect.tap(connected, (client) => checkVersion(client, url()))
    })
  ).pipe(Layer.provideMerge(layerServer(options)))

/**
 * The server alone: `DATABASE_URL` when it is set, else an embedded one.
 *
 * When the embedded server ends although nobody stopped it, a fiber of the layer's scope fails with `ServerExited`,
 * which is a crash for a supervisor. Building the layer again recovers the data and starts a new server.
 */
export const layerServer = (options: ServerOptions = {}): Layer.Layer<Server, PostgresUnavailable> =>
  Layer.effect(
    Server,
    Effect.gen(function* () {
      const url = yield* read("DATABASE_URL")
      if (url === undefined) return yield* embedded(options)
      const database = yield* parse(url)
      yield* Effect.logInfo(`Using the PostgreSQL server at ${describe(database)}`)
      return { embedded: false, url: (name) => (name === undefined ? database : withDatabase(database, name)) }
    }).pipe(Effect.mapError((reason) => new PostgresUnavailable({ reason })))
  )

/**
 * The database of an application: the server that `DATABASE_URL` names, else an embedded one in `.data/postgres`.
 *
 * ```ts
 * import { Postgres } from "@coppice/postgres"
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 *
 * const program = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   return yield* sql`select version()`
 * }).pipe(Effect.provide(Postgres.layer))
 * ```
 */
export const layer: Layer.Layer<PgClient.PgClient | SqlClient | Server, PostgresUnavailable> = layerWith()

/**
 * PostgreSQL on virtual time: queries complete inside `TestClock.adjust`. One PGlite per layer, in this process; see
 * `Pglite` for what it can and cannot do, `Pglite.advance` for moving the clock, and `Sandbox.layer` for isolation.
 */
export const layerTest: Layer.Layer<PgClient.PgClient | SqlClient | Pglite.Pglite, PostgresUnavailable> = Pglite.layer()

/**
 * A new database on the test run's server, for tests of real concurrency; see `TestDatabase`.
 *
 * ```ts
 * import { Postgres } from "@coppice/postgres"
 * import { layer } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 *
 * layer(Postgres.layerTestDatabase())("counters", (it) => {
 *   it.effect("lose no update", () =>
 *     Effect.gen(function*() {
 *       const sql = yield* SqlClient.SqlClient
 *       yield* sql`create table counter as select 0 as n`
 *       yield* Effect.replicateEffect(sql`update counter set n = n + 1`, 100, { concurrency: 5 })
 *     }))
 * })
 * ```
 */
export const layerTestDatabase: typeof TestDatabase.layer = TestDatabase.layer

/**
 * Whether the same work may succeed when it is tried again: what `SqlError.isRetryable` says, and the server's own
 * "I am shutting down", "I am starting" and "too many connections" (57P01, 57P02, 57P03, 53300), which sql-pg reports
 * as `UnknownError`.
 */
export const isTransient = (error: unknown): boolean => {
  if (!isSqlError(error)) return false
  const { cause } = error.reason
  return (
    error.isRetryable || (typeof cause === "object" && cause !== null && "code" in cause && passing.has(cause.code))
  )
}

const passing: ReadonlySet<unknown> = new Set(["57P01", "57P02", "57P03", "53300"])

/** The oldest PostgreSQL that Coppice's SQL is written for. */
const oldest = 15

const embedded = Effect.fnUntraced(function* (options: ServerOptions) {
  const folder =
    options.temporary === true
      ? undefined
      : (options.dataDir ?? (yield* read("DATABASE_DIR").pipe(Effect.map((dir) => dir || ".data/postgres"))))
  const server = yield* EmbeddedServer.start({
    folder,
    binaries: options.binaries,
    settings: options.settings ?? {},
    windows: process.platform === "win32"
  })
  yield* Effect.forkScoped(Effect.mapError(server.ended, (reason) => new PostgresUnavailable({ reason })))
  yield* Effect.logInfo(`Started the embedded PostgreSQL (process ${server.pid}) on ${server.folder}`)
  return Server.of({ embedded: true, url: (database = "postgres") => Redacted.make(server.url(database)) })
})

const read = (name: string): Effect.Effect<string | undefined, InvalidDatabaseUrl> =>
  Config.option(Config.String(name)).pipe(
    Effect.map(Option.getOrUndefined),
    Effect.mapError((error) => new InvalidDatabaseUrl({ problem: `cannot be read (${error.message})` }))
  )

/** Refuses what cannot be right before anything connects. What it says never contains a part of the URL. */
const parse = Effect.fnUntraced(function* (text: string) {
  const invalid = (problem: string) => Effect.fail(new InvalidDatabaseUrl({ problem }))
  if (text.trim() === "") return yield* invalid("is empty")
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return yield* invalid("does not start with postgres://")
  if (!/^postgres(ql)?:/i.test(text)) return yield* invalid(`starts with ${text.slice(0, text.indexOf(":"))}://`)
  if (!URL.canParse(text)) return yield* invalid("is not a URL (encode special characters with encodeURIComponent)")
  return Redacted.make(text)
})

const checkVersion = Effect.fnUntraced(function* (client: PgClient.PgClient, url: Redacted.Redacted) {
  const [row] = yield* Effect.mapError(
    client<{ readonly version: number }>`select current_setting('server_version_num')::int4 / 10000 as version`,
    (error) => unreachable(url, error)
  )
  if (row !== undefined && row.version >= oldest) return
  const problem = `it is PostgreSQL ${row?.version}, and ${oldest} or later is needed`
  return yield* new PostgresUnavailable({ reason: new ServerUnreachable({ server: describe(url), problem }) })
})
