/**
 * PostgreSQL for tests that run on virtual time: PGlite behind `PgClient`.
 *
 * It is the real PostgreSQL 18, compiled to WebAssembly, in this process. Queries complete inside the turn in which
 * they are made, so `TestClock.adjust` includes every query of the fibers that it wakes; a server in another process
 * would answer too late. Same service, same codecs, same errors as with a server.
 *
 * One session serves all connections. Transactions therefore run one after another, and what belongs to a session
 * (`SET`, temporary tables, session advisory locks) is shared. A statement that runs cannot be cancelled. What depends
 * on real concurrency is tested with `Postgres.layerTestDatabase`.
 */
import { PgClient } from "@effect/sql-pg"
import { Context, type Duration, Effect, Layer, type Scope } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { live, type PoolOptions } from "./internal/database.ts"
import { type Engine, PgliteSession } from "./internal/pgliteSession.ts"
import * as Snapshot from "./internal/pgliteSnapshot.ts"
import { PgliteMissing, PostgresUnavailable } from "./PostgresError.ts"

/** How `layer` makes its database. */
export interface Options {
  /** Makes the PGlite, for example one with extensions; by default an empty one in memory. */
  readonly create?: (() => Promise<Instance>) | undefined
  /** Settings of the connection pool. Its connections (10 by default) are all opened at the start, and cost nothing. */
  readonly pool?: PoolOptions | undefined
  /** How long a statement waits for another connection's transaction before it fails, in real time; by default 5 s. */
  readonly waitLimit?: Duration.Input | undefined
}

/** The part of a `PGlite` that is used here. */
export interface Instance extends Engine {
  readonly close: () => Promise<void>
}

/** The PGlite below a `PgClient`. */
export class Pglite extends Context.Service<
  Pglite,
  {
    /** How many times the session has been asked something. */
    readonly cycles: Effect.Effect<number>
  }
>()("@coppice/postgres/Pglite") {}

/** `PgClient` and `SqlClient` over a PGlite that is gone with the scope. */
export const layer = (
  options: Options = {}
): Layer.Layer<PgClient.PgClient | SqlClient | Pglite, PostgresUnavailable> =>
  Layer.unwrap(
    Effect.map(open(options), (session) =>
      Layer.merge(
        PgClient.layerFrom(connect(session, options.pool)),
        Layer.succeed(Pglite, { cycles: Effect.sync(() => session.cycles) })
      )
    )
  )

/**
 * Lets everything run that can run without the clock moving: forked fibers reach their first sleep, and woken ones
 * their next.
 */
export const settle: Effect.Effect<void, never, Pglite> = Effect.gen(function* () {
  const { cycles } = yield* Pglite
  let last = -1
  for (let quiet = 0; quiet < quietTurns;) {
    yield* turn
    const now = yield* cycles
    quiet = now === last ? quiet + 1 : 0
    last = now
  }
})

/** `TestClock.adjust`, after and before everything has settled. */
export const advance = (duration: Duration.Input): Effect.Effect<void, never, Pglite> =>
  settle.pipe(Effect.andThen(TestClock.adjust(duration)), Effect.andThen(settle))

/** How many turns of the event loop without a query mean that there are no more. */
const quietTurns = 5

const turn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const open = (options: Options): Effect.Effect<PgliteSession, PostgresUnavailable, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        const instance = await (options.create ?? Snapshot.open)()
        return { instance, session: new PgliteSession(instance, options.waitLimit ?? "5 seconds") }
      },
      catch: (cause) => {
        const problem = cause instanceof Error ? cause.message.slice(0, 200) : String(cause)
        return new PostgresUnavailable({ reason: new PgliteMissing({ problem, cause }) })
      }
    }),
    ({ instance, session }) =>
      Effect.promise(async () => {
        session.shutdown(new Error("PGlite is closed"))
        await instance.close()
      })
  ).pipe(Effect.map(({ session }) => session))

const connect = (session: PgliteSession, pool: PoolOptions = {}) =>
  PgClient.make({
    minConnections: pool.maxConnections ?? 10,
    ...pool,
    username: "postgres",
    database: "postgres",
    stream: session.connect
  }).pipe(
    // The pool must not see its connections as idle for as long as a test clock jumps.
    live,
    Effect.map((client) => Object.assign(client, { driver: "pglite" })),
    Effect.mapError(
      (cause) => new PostgresUnavailable({ reason: new PgliteMissing({ problem: cause.message, cause }) })
    )
  )
