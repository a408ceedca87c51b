/**
 * Addresses of databases, and clients for them.
 */
import { PgClient } from "@effect/sql-pg"
import { Clock, Context, Effect, Redacted, type Scope } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import type { SqlError } from "effect/sql/SqlError"
import { PostgresUnavailable, ServerUnreachable } from "../PostgresError.ts"

/** Everything that `PgClient` can be told, except where the database is. */
export type PoolOptions = Omit<
  PgClient.PgPoolConfig,
  "url" | "host" | "port" | "path" | "database" | "username" | "password" | "stream"
>

/** Where the database is, for example to pass it on to a child process as `DATABASE_URL`. */
export class Server extends Context.Service<
  Server,
  {
    /** Whether the server belongs to this process, and ends with it. */
    readonly embedded: boolean
    /** The URL of the application's database, or of another one on the same server. */
    readonly url: (database?: string) => Redacted.Redacted
  }
>()("@coppice/postgres/Postgres/Server") {}

/** Runs something by the live clock: neither a socket nor a child process waits for `TestClock.adjust`. */
export const live: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = Effect.provideService(
  Clock.Clock,
  Clock.Clock.defaultValue()
)

/**
 * A pool of connections to a database, on the live clock.
 *
 * sql-pg 4.0 does not say which driver it is, as `SqlClient.driver` asks of it; this client does.
 */
export const connect = (
  url: Redacted.Redacted,
  pool: PoolOptions = {}
): Effect.Effect<PgClient.PgClient, SqlError, Reactivity.Reactivity | Scope.Scope> =>
  Effect.map(live(PgClient.make({ ...pool, url })), (client) => Object.assign(client, { driver: "pg" }))

/** A single connection to a database, whose session ends with the scope. */
export const connectOnce = (
  url: Redacted.Redacted
): Effect.Effect<PgClient.PgClient, PostgresUnavailable, Scope.Scope> =>
  live(PgClient.makeClient({ url })).pipe(
    Effect.provide(Reactivity.layer),
    Effect.mapError((error) => unreachable(url, error))
  )

/** The URL of the database `name` on the same server. */
export const withDatabase = (base: Redacted.Redacted, name: string): Redacted.Redacted => {
  const url = new URL(Redacted.value(base))
  url.pathname = `/${encodeURIComponent(name)}`
  url.searchParams.delete("dbname")
  return Redacted.make(url.href)
}

/** Host, port and database of a URL, without its secrets. */
export const describe = (url: Redacted.Redacted): string => {
  const { hostname, pathname, port, searchParams } = new URL(Redacted.value(url))
  return `${searchParams.get("host") ?? (hostname || "localhost")}:${searchParams.get("port") ?? (port || "5432")}${pathname}`
}

/** The server does not let us in, or does not let us do what we must. */
export const unreachable = (url: Redacted.Redacted, error: SqlError): PostgresUnavailable =>
  new PostgresUnavailable({
    reason: new ServerUnreachable({ server: describe(url), problem: explain(error), cause: error })
  })

/** The driver's sentence, and what the server or the operating system said. */
const explain = (error: SqlError): string => {
  const { cause } = error.reason
  return cause instanceof Error && cause.message !== "" && !error.message.includes(cause.message)
    ? `${error.message} (${cause.message})`
    : error.message
}
