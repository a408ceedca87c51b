/** The statements of an adapter, each of which is a transaction of its own. */
import type { PgConnection } from "@effect/sql-pg"
import { Effect } from "effect"
import type { SqlError } from "effect/sql"
import type { Attached } from "./notification.ts"
import type { Batch } from "./outbox.ts"

export interface Options {
  readonly node: string
  readonly channel: string
  /** The schema of the tables, quoted. */
  readonly schema: string
  /** For how long attachments are kept, in milliseconds. */
  readonly ttlMillis: number
}

type Statement<A> = (connection: PgConnection.PgConnection) => Effect.Effect<A, SqlError.SqlError>

/** How many attachments are removed at once. */
const sweepSize = 100

// A commit that notifies holds a lock that all others of its kind wait for, in the whole server: it must not wait for the
// disk meanwhile. A setting of the transaction, not of the session, goes through any pooler.
const quickly = "set_config('synchronous_commit', 'off', true)"

/** The statements for one node. */
export const make = ({ channel, node, schema, ttlMillis }: Options) => {
  const notify = `select (select count(pg_notify($1, t)) from unnest($2::text[]) t), ${quickly}`
  const attach = `with attached as (
      insert into ${schema}.attachments (node, seq, body)
      select $3, a.seq, a.body from unnest($4::text[]::bigint[], $5::text[]) a (seq, body) on conflict do nothing
    ) ${notify}`

  /** Sends a batch. Sent twice, it is heard twice, with the same numbers. */
  const send =
    ({ attachments, notifications }: Batch): Statement<unknown> =>
    (connection) =>
      attachments.length === 0
        ? connection.query(notify, [channel, notifications])
        : connection.query(attach, [
            channel,
            notifications,
            node,
            attachments.map(({ seq }) => `${seq}`),
            attachments.map(({ body }) => body)
          ])

  /** A packet that was too large for its notification; undefined where it has been removed. */
  const fetch =
    ({ from, seq }: Attached): Statement<string | undefined> =>
    (connection) =>
      Effect.map(
        connection.queryValues(`select body from ${schema}.attachments where node = $1 and seq = $2`, [from, `${seq}`]),
        ([row]) => (typeof row?.[0] === "string" ? row[0] : undefined)
      )

  /** Removes attachments that everybody has had time to fetch. Whether there may be more. */
  const sweep: Statement<boolean> = (connection) =>
    Effect.map(
      connection.query(
        `delete from ${schema}.attachments where (node, seq) in (
           select node, seq from ${schema}.attachments
            where inserted_at < statement_timestamp() - $1::float8 * interval '1 millisecond'
            order by inserted_at limit ${sweepSize} for update skip locked)`,
        [`${ttlMillis}`]
      ),
      ({ rowCount }) => rowCount === sweepSize
    )

  /** Whether this session still listens. */
  const listens: Statement<boolean> = (connection) =>
    Effect.map(
      connection.queryValues("select 1 from pg_listening_channels() c where c = $1", [channel]),
      (rows) => rows.length > 0
    )

  /** Whether the tables are where this connection leads, and whether the database's encoding has all characters. */
  const look: Statement<{ readonly tables: boolean; readonly unicode: boolean }> = (connection) =>
    Effect.map(
      connection.queryValues("select to_regclass($1) is not null, current_setting('server_encoding') = 'UTF8'", [
        `${schema}.attachments`
      ]),
      ([row]) => ({ tables: row?.[0] === true, unicode: row?.[1] === true })
    )

  return { send, fetch, sweep, listens, look }
}

export type Statements = ReturnType<typeof make>

/** The database has understood what it was asked, and will not do it next time either. */
export const isRefusal = ({ reason: { cause } }: SqlError.SqlError): boolean =>
  typeof cause === "object"
  && cause !== null
  && "code" in cause
  && typeof cause.code === "string"
  // Data, rights and names. What is full, busy, starting or stopping may pass.
  && /^(22|23|42)/.test(cause.code)
