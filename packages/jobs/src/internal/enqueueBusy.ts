/**
 * Asking for unique keys without waiting for a transaction that has not committed yet.
 *
 * PostgreSQL has no way to see such a key but to wait for it, so this waits 10 milliseconds. A savepoint undoes an attempt
 * that waited longer, and `lock_timeout` is what it was before in every case: the savepoint that is rolled back takes the
 * change along, and after one that succeeded it is set back.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Database } from "./database.ts"
import type { Row } from "./enqueueRow.ts"

/** Settles rows, and leaves those out that would have to wait. Needs an open transaction. */
export const make = (database: Database) => {
  const limited = <A, R>(attempt: Effect.Effect<A, SqlError, R>): Effect.Effect<A, SqlError, R> =>
    database.client.withTransaction(
      Effect.gen(function* () {
        const [before] = yield* database.run<{ readonly value: string }>(
          "select current_setting('lock_timeout') as value"
        )
        yield* set(wait)
        const answer = yield* attempt
        yield* set(before?.value ?? "0")
        return answer
      })
    )
  const set = (value: string) => database.run("select set_config('lock_timeout', $1, true)", [value])

  const settle = <Outcome, R>(
    rows: ReadonlyArray<Row>,
    attempt: (rows: ReadonlyArray<Row>) => Effect.Effect<ReadonlyMap<Row, Outcome>, SqlError, R>,
    turn = 1
  ): Effect.Effect<ReadonlyMap<Row, Outcome>, SqlError, R> => {
    const none: ReadonlyMap<Row, Outcome> = new Map()
    if (rows.length === 0) return Effect.succeed(none)
    return Effect.catch(limited(attempt(rows)), (error) => {
      if (error.reason._tag !== "LockTimeoutError") return Effect.fail(error)
      // Some other lock: a table that grows, or is being altered.
      if (!waitedForKey(error)) return turn < turns ? settle(rows, attempt, turn + 1) : Effect.fail(error)
      if (rows.length === 1) return Effect.succeed(none)
      const middle = rows.length >> 1
      return Effect.zipWith(
        settle(rows.slice(0, middle), attempt),
        settle(rows.slice(middle), attempt),
        (left, right): ReadonlyMap<Row, Outcome> => new Map([...left, ...right])
      )
    })
  }
  return settle
}

const wait = "10ms"

/** How often another lock than that of a key may be in the way. */
const turns = 10

/** What the server says about where it waited is translated, but not the name of the table. */
const waitedForKey = (error: SqlError): boolean => {
  const { cause } = error.reason
  return typeof cause === "object" && cause !== null && "where" in cause && `${cause.where}`.includes("unique_keys")
}
