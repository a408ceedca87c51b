/**
 * The queue's own connections: handlers that take all of the application's cannot keep it from claiming, settling and
 * saying that it lives.
 */
import { PgClient, PgTypes } from "@effect/sql-pg"
import { Clock, Effect, type Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import type { SqlError } from "effect/sql/SqlError"
import { closingWithin } from "./promptly.ts"

/**
 * The queue's statements are made for index scans. A plan that was made while the table was empty would scan all of it,
 * and stay in use when a hundred thousand jobs have come, until the server analyzes the table again.
 */
const planner = {
  enable_seqscan: "off",
  enable_bitmapscan: "off",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
  jit: "off"
}

/** How long connections that are still in use may take to close: longer only where the database does not answer. */
const closeTimeout = "2 seconds"

/** A pool to the database of a client, of at most so many connections. */
export const make = (
  client: PgClient.PgClient,
  connections: number,
  applicationName: string
): Effect.Effect<PgClient.PgClient, SqlError, Scope.Scope> => {
  const config = own(client.config)
  const open = (startupParameters: Readonly<Record<string, string>> | undefined) =>
    PgClient.make({
      ...config,
      keepAlive: config.keepAlive ?? "10 seconds",
      startupParameters,
      minConnections: connections,
      maxConnections: connections,
      applicationName
    }).pipe(
      Effect.provide(Reactivity.layer),
      // Sockets, and how long they may be idle, go by the live clock.
      Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
    )
  // A pooler may refuse parameters that it does not know. The queue works without them.
  return closingWithin(
    closeTimeout,
    Effect.catch(open({ ...config.startupParameters, ...planner }), () => open(config.startupParameters))
  )
}

/**
 * How a client reaches its database, and nothing else: what the application's connections make of names and values, and how
 * many share one, is not the queue's.
 */
export const own = (config: PgClient.PgClientConfig): PgClient.PgClientConfig => ({
  url: config.url,
  host: config.host,
  port: config.port,
  path: config.path,
  ssl: config.ssl,
  database: config.database,
  username: config.username,
  password: config.password,
  connectTimeout: config.connectTimeout,
  keepAlive: config.keepAlive,
  stream: config.stream,
  startupParameters: config.startupParameters,
  startupOptions: config.startupOptions,
  spanAttributes: config.spanAttributes,
  prepare: config.prepare,
  // Without it, codecs that were registered for the whole process would hold here too.
  types: PgTypes.makeRegistry()
})
