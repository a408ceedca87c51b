/**
 * Isolation of tests that share a database: everything a test does happens in one transaction on one connection, and
 * is rolled back when the scope closes, as in Ecto's sandbox.
 *
 * Code under test does not notice. `sql.withTransaction` is a savepoint that behaves as a transaction: callbacks of
 * `sql.afterCommit` run when it is released, and what fails inside is undone. A statement outside of a transaction
 * that fails is undone by a savepoint of its own. All fibers share the one connection, one transaction at a time.
 *
 * What a real commit would do does not happen: notifications are not delivered, deferred constraints are not checked
 * (`SET CONSTRAINTS ALL IMMEDIATE` does it), and `now()` stands still. Code inside a transaction that waits for
 * another fiber's statement waits for ever.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, type Layer, Semaphore, Stream } from "effect"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"

/**
 * `PgClient` and `SqlClient` in a sandbox on the `PgClient` that the layer is given.
 *
 * ```ts
 * import { Postgres, Sandbox } from "@coppice/postgres"
 * import { assert, layer } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 *
 * layer(Postgres.layerTest)("numbers", (it) => {
 *   it.effect("are gone after the test", () =>
 *     Effect.gen(function*() {
 *       const sql = yield* SqlClient.SqlClient
 *       yield* sql`create table numbers(n int4)`
 *       assert.deepStrictEqual(yield* sql`select * from numbers`, [])
 *     }).pipe(Effect.provide(Sandbox.layer)))
 * })
 * ```
 */
export const layer: Layer.Layer<PgClient.PgClient | SqlClient.SqlClient, SqlError, PgClient.PgClient> =
  PgClient.layerFrom(Effect.suspend(() => make))

const make = Effect.gen(function* () {
  const outside = yield* PgClient.PgClient
  const { config } = outside
  const connection = yield* outside.reserve
  yield* Effect.acquireRelease(run(connection, "BEGIN"), () => Effect.ignore(run(connection, "ROLLBACK")))
  const lock = yield* Semaphore.make(1)
  const autocommit = makeAutocommit(connection)
  const single = Effect.as(lock.takeScoped(1), autocommit)
  // The outer savepoint goes in any case, and takes along what the end of the transaction left.
  const transaction = Effect.andThen(
    lock.takeScoped(1),
    Effect.acquireRelease(Effect.as(run(connection, "SAVEPOINT sandbox_lease"), connection), () =>
      Effect.ignore(run(connection, "RELEASE SAVEPOINT sandbox_lease"))
    )
  )
  const client = yield* SqlClient.make({
    driver: outside.driver,
    acquirer: single,
    borrower: (use) => lock.withPermit(use(autocommit)),
    transactionAcquirer: transaction,
    beginTransaction: "SAVEPOINT sandbox_transaction",
    commit: "RELEASE SAVEPOINT sandbox_transaction",
    onCommitFailure: (connection) => run(connection, "ROLLBACK TO SAVEPOINT sandbox_transaction"),
    rollback: "ROLLBACK TO SAVEPOINT sandbox_transaction",
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
    prepareTransactionControls: true,
    compiler: PgClient.makeCompiler(config.transformQueryNames, config.transformJson),
    transformRows:
      config.transformResultNames === undefined
        ? undefined
        : Statement.defaultTransforms(config.transformResultNames, config.transformJson).array,
    spanAttributes: []
  })
  return Object.assign(client, {
    [PgClient.TypeId]: PgClient.TypeId,
    config,
    json: outside.json,
    reserve: single,
    listen: outside.listen,
    notify: (channel: string, payload: string) => Effect.asVoid(client`select pg_notify(${channel}, ${payload})`)
  })
})

const run = (connection: Connection, sql: string): Effect.Effect<void, SqlError> =>
  Effect.asVoid(connection.executeRaw(sql, []))

/** Undoes a statement that fails, as a statement outside of a transaction would be, and leaves the rest as it was. */
const makeAutocommit = (connection: Connection): Connection => {
  const begin = run(connection, "SAVEPOINT sandbox_statement")
  const end = run(connection, "RELEASE SAVEPOINT sandbox_statement")
  // Whatever goes wrong here went wrong with the connection, and the statement's own failure says that already.
  const undo = Effect.ignore(Effect.andThen(run(connection, "ROLLBACK TO SAVEPOINT sandbox_statement"), end))
  const guard = <A>(statement: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.andThen(
        begin,
        Effect.matchCauseEffect(restore(statement), {
          onFailure: (cause) => Effect.andThen(undo, Effect.failCause(cause)),
          onSuccess: (value) => Effect.as(end, value)
        })
      )
    )
  return {
    execute: (...args) => guard(connection.execute(...args)),
    executeRaw: (...args) => guard(connection.executeRaw(...args)),
    executeValues: (...args) => guard(connection.executeValues(...args)),
    executeValuesUnprepared: (...args) => guard(connection.executeValuesUnprepared(...args)),
    executeUnprepared: (...args) => guard(connection.executeUnprepared(...args)),
    executeStream: (...args) =>
      Stream.unwrap(
        Effect.as(
          // A stream that nobody reads to its end is cancelled, which fails the statement although the stream succeeds.
          Effect.acquireRelease(begin, () => Effect.catch(end, () => undo)),
          connection.executeStream(...args)
        )
      )
  }
}
