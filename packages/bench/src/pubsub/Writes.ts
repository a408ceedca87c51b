/** Transactions that write a row, and what telling of it costs them. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { session } from "../jobs/Database.ts"
import type { Implementation } from "../jobs/Implementation.ts"

export interface Writes {
  /** Commits a row, and whatever tells of it. */
  readonly write: (n: number) => Effect.Effect<unknown>
  /** Waits until others have been told of all that was written. */
  readonly settled: Effect.Effect<void>
}

/** How many transactions are open at a time, each on a connection of its own. */
export const writers = 8

export const createTable = (sql: SqlClient.SqlClient): Effect.Effect<unknown> =>
  Effect.orDie(sql`create table written (id bigint generated always as identity primary key, n int not null)`)

export const insert = (sql: SqlClient.SqlClient, n: number) => sql`insert into written (n) values (${n})`

/** The same transactions, which tell nobody. */
export const quiet: Implementation<Writes> = {
  name: "nobody told",
  configuration: "the same transactions, and nothing else",
  open: ({ database }) =>
    Effect.map(client(database), (sql) => ({
      write: (n) => Effect.orDie(sql.withTransaction(insert(sql, n))),
      settled: Effect.void
    }))
}

/** The same transactions, each with a notification of its own inside. */
export const notifying: Implementation<Writes> = {
  name: "pg_notify inside",
  configuration: "select pg_notify in each transaction, and a session that listens",
  open: ({ database }) =>
    Effect.gen(function* () {
      const sql = yield* client(database)
      const listener = yield* session(database)
      yield* Effect.orDie(listener.listen("bench"))
      return {
        write: (n) =>
          Effect.orDie(
            sql.withTransaction(Effect.andThen(insert(sql, n), sql`select pg_notify('bench', ${String(n)})`))
          ),
        settled: Effect.void
      }
    })
}

const client = (database: string) =>
  Effect.gen(function* () {
    const services = yield* Layer.build(
      Layer.orDie(PgClient.layer({ url: Redacted.make(database), maxConnections: writers }))
    )
    const sql = Context.get(services, SqlClient.SqlClient)
    yield* createTable(sql)
    return sql
  })
