/**
 * The tables of pubsub: messages that are too large for a notification, and what durable topics keep.
 */
import { Effect } from "effect"
import { SqlClient } from "effect/sql"

/** Creates the tables in a schema, whose name is quoted already. */
export const make = (schema: string): Effect.Effect<void, unknown, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Effect.forEach(statements(schema), (statement) => sql.unsafe(statement), { discard: true })
  )

const statements = (schema: string): ReadonlyArray<string> => [
  // What a crash of the server would lose, its nodes have missed anyway: no need to log it.
  `create unlogged table ${schema}.attachments (
    id bigint generated always as identity primary key,
    inserted_at timestamptz not null default statement_timestamp(),
    body text not null
  )`,
  `create index on ${schema}.attachments (inserted_at)`,
  // Their order is that of transactions, then of ids: an id may commit after a higher one. `json` keeps what `jsonb` refuses.
  `create table ${schema}.events (
    topic text not null,
    xid xid8 not null default pg_current_xact_id(),
    id bigint generated always as identity,
    inserted_at timestamptz not null default statement_timestamp(),
    event json not null,
    primary key (topic, xid, id)
  )`,
  `create index on ${schema}.events using brin (inserted_at)`,
  // How far a consumer has come. Before its first event it stands at 0.
  `create table ${schema}.positions (
    topic text not null,
    consumer text not null,
    xid xid8 not null,
    id bigint not null,
    updated_at timestamptz not null default statement_timestamp(),
    primary key (topic, consumer)
  )`
]
