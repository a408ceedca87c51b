/**
 * The queue's statements: which client runs them, in which schema, and by which clock.
 *
 * `$1` of every timed statement is the time: null for the clock of the database, which is the one that all nodes share,
 * or an instant of Effect's `Clock` in tests. `now` is how statements spell it.
 */
import { DateTime, Duration, Effect, Schema } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import type { JobId } from "../Job.ts"
import type { TimeSource } from "../JobsConfig.ts"
import { promptly } from "./promptly.ts"

/** Now, in a timed statement. Stable within a statement, so that indexes can be used with it. */
export const now = "coalesce($1::timestamptz, statement_timestamp())"

/** What a client makes of a `timestamptz`: a `Date`, unless the application has given it a codec of its own. */
export type Timestamp = Exclude<DateTime.DateTime.Input, Partial<DateTime.DateTime.Parts>>

/** The id that a statement returned as `float8`: a number, unless the application has given it a codec of its own. */
// What identifies a row of the table is an id: to check it again would take longer than to insert the job.
export const idOf = (id: number): JobId => Number(id) as JobId

/** One schema of one database. */
export interface Database {
  /** The schema's name, quoted. */
  readonly schema: string
  /** The name as it was given. */
  readonly name: string
  readonly time: TimeSource
  readonly client: SqlClient
  /** Runs a statement whose `$1` is the time. */
  readonly timed: <Row extends object>(
    text: string,
    params?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Row>, SqlError>
  /** Runs a statement that needs no time. */
  readonly run: <Row extends object>(
    text: string,
    params?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Row>, SqlError>
}

/** A name that cannot be the schema of a queue. */
export class InvalidSchemaName extends Schema.TaggedError<InvalidSchemaName>("@coppice/jobs/InvalidSchemaName")(
  "InvalidSchemaName",
  { name: Schema.String }
) {
  override get message(): string {
    return (
      `${JSON.stringify(this.name)} cannot be the schema of a job queue: use letters, digits and "_", not starting with`
      + " a digit or with pg_, at most 40 characters"
    )
  }
}

export const make = (client: SqlClient, name: string, time: TimeSource): Effect.Effect<Database, InvalidSchemaName> => {
  if (!/^[a-z_][a-z0-9_]{0,39}$/i.test(name) || /^pg_/i.test(name)) return Effect.fail(new InvalidSchemaName({ name }))
  const run = <Row extends object>(text: string, params: ReadonlyArray<unknown> = []) =>
    // The user's client may rename columns of results; these are our own.
    client.unsafe<Row>(text, params).withoutTransform
  return Effect.succeed({
    schema: `"${name}"`,
    name,
    time,
    client,
    run,
    timed: <Row extends object>(text: string, params: ReadonlyArray<unknown> = []) =>
      time === "database"
        ? run<Row>(text, [null, ...params])
        : Effect.flatMap(DateTime.nowAsDate, (date) => run<Row>(text, [date, ...params]))
  })
}

/**
 * The same, but a statement that is not answered in time fails: a connection may be dead without an end. On virtual time,
 * where statements are answered at once, it is the same.
 */
export const bounded = (database: Database, limit: Duration.Duration): Database => {
  if (database.time === "clock") return database
  const timeout = (operation: string) => () =>
    Effect.fail(
      new SqlError({
        reason: new ConnectionError({
          cause: new Error("The database did not answer"),
          message: `The database did not answer within ${Duration.format(limit)}`,
          operation
        })
      })
    )
  return {
    ...database,
    run: <Row extends object>(text: string, params?: ReadonlyArray<unknown>) =>
      promptly(database.run<Row>(text, params), limit, timeout("run")),
    timed: <Row extends object>(text: string, params?: ReadonlyArray<unknown>) =>
      promptly(database.timed<Row>(text, params), limit, timeout("timed"))
  }
}

/** An array parameter of numbers, as text that the server parses. */
export const numbers = (values: ReadonlyArray<number>): string => `{${values.join(",")}}`
