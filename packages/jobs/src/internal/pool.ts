/**
 * The queue's own connections: handlers that take all of the application's cannot keep it from claiming, settling and
 * saying that it lives.
 */
import { PgClient } from "@effect/sql-pg"
import { Clock, Effect, type Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import type { SqlError } from "effect/sql/SqlError"

/** A pool to the database of a client, of at most so many connections. */
export const make = (
  client: PgClient.PgClient,
  connections: number,
  applicationName: string
): Effect.Effect<PgClient.PgClient, SqlError, Scope.Scope> =>
  PgClient.make({
    ...client.config,
    minConnections: connections,
    maxConnections: connections,
    applicationName
  }).pipe(
    Effect.provide(Reactivity.layer),
    // Sockets, and how long they may be idle, go by the live clock.
    Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
  )
