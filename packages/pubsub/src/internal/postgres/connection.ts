/**
 * Connections of an adapter's own, apart from the application's pool: listening needs one for itself, and what is
 * broadcast waits for nobody.
 */
import { PgConnection, PgTypes, type PgClient } from "@effect/sql-pg"
import { Cause, Clock, Effect, Exit, Fiber, type Redacted, Scope } from "effect"
import type { SqlError } from "effect/sql"

/** Sockets go by the live clock, also where a test moves another. */
export const live = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

/** Opens a connection where a client's configuration leads, or another URL. It closes with the scope. */
export const open = (
  config: PgClient.PgClientConfig,
  url: Redacted.Redacted | undefined,
  applicationName: string
): Effect.Effect<PgConnection.PgConnection, SqlError.SqlError, Scope.Scope> =>
  live(
    PgConnection.make({
      // What a URL says comes last: fields beside it would win.
      ...(url === undefined
        ? {
            url: config.url,
            host: config.host,
            port: config.port,
            path: config.path,
            database: config.database,
            username: config.username,
            password: config.password,
            stream: config.stream
          }
        : { url }),
      ssl: config.ssl,
      connectTimeout: config.connectTimeout,
      keepAlive: config.keepAlive ?? "10 seconds",
      startupParameters: config.startupParameters,
      startupOptions: config.startupOptions,
      prepare: config.prepare,
      applicationName,
      maxMessageSize,
      // Without it, codecs that were registered for the whole process would hold here too.
      types: PgTypes.makeRegistry()
    })
  )

/** The largest answer: an attachment, and what is around it. */
const maxMessageSize = 64 * 1024 * 1024

/** Begins to close a scope, and does not wait. */
export const closeApart = (scope: Scope.Closeable, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.asVoid(Effect.forkDetach(Scope.close(scope, exit), { startImmediately: true }))

/** A delay in two parts: a process that was frozen meanwhile gets the second, and so reads what came in before it decides. */
const patience = (millis: number): Effect.Effect<void> =>
  Effect.andThen(Effect.sleep(millis / 2), Effect.sleep(millis / 2))

/**
 * The result of a statement, or undefined after so long, or when the scope has closed under it: whoever waits is not
 * interrupted by that. The statement is interrupted with the scope, which nobody waits for.
 */
export const within = <A, E>(
  millis: number,
  scope: Scope.Scope,
  statement: Effect.Effect<A, E>
): Effect.Effect<A | undefined, E> =>
  Effect.flatMap(Effect.forkIn(statement, scope, { startImmediately: true }), (fiber) =>
    Effect.raceFirst(
      Effect.flatMap(Fiber.await(fiber), (exit) =>
        Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) ? Effect.succeed(undefined) : exit
      ),
      Effect.as(patience(millis), undefined)
    )
  )
