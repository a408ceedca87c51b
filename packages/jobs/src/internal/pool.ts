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
  jit: "off",
  // Few jobs look cheap enough to be planned anew each time, which takes longer than to claim or to end them.
  plan_cache_mode: "force_generic_plan",
  // Who waits for a row longer than that does something else meanwhile.
  lock_timeout: "500ms"
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
      // The pool opens its connections when it has been made: whether it can, the first one tells.
      Effect.tap((pool) => pool`select 1`),
      Effect.provide(Reactivity.layer),
      // Sockets, and how long they may be idle, go by the live clock.
      Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
    )
  return Effect.catchIf(
    closingWithin(closeTimeout, open({ ...config.startupParameters, ...planner })),
    isRefusal,
    (refusal) =>
      Effect.andThen(
        Effect.logInfo(
          `The database does not let "${applicationName}" set how its statements are planned (${problemOf(refusal)}):`
            + " they are planned as the server finds right"
        ),
        closingWithin(closeTimeout, open(config.startupParameters))
      )
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

/** Whether a server or a pooler does not take a parameter at the start of a connection. */
const isRefusal = (error: SqlError): boolean => {
  const { cause } = error.reason
  const code = typeof cause === "object" && cause !== null && "code" in cause ? cause.code : undefined
  return code === "08P01" || code === "42704" || /unsupported startup parameter/i.test(problemOf(error))
}

const problemOf = ({ reason: { cause, message } }: SqlError): string =>
  cause instanceof Error ? cause.message : message
