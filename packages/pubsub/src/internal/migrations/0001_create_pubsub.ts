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
  // What a crash of the server would lose, its nodes have missed anyway: no need to log it. A sender that does not know
  // whether something was stored stores it again, under the same number.
  `create unlogged table ${schema}.attachments (
    node text not null,
    seq bigint not null,
    inserted_at timestamptz not null default statement_timestamp(),
    body text not null,
    primary key (node, seq)
  )`,
  // To compress takes longer than to write, and they do not live long.
  `alter table ${schema}.attachments alter column body set storage external`,
  `create index on ${schema}.attachments (inserted_at)`,
  // Their order is that of transactions, then of ids: an id may commit after a higher one. Not `xid8`, because the number of
  // a transaction is counted on from `origin.lead`. `json` keeps what `jsonb` refuses.
  `create table ${schema}.events (
    topic text not null,
    xid bigint not null,
    id bigint generated always as identity,
    inserted_at timestamptz not null,
    expires_at timestamptz,
    event json not null,
    primary key (topic, xid, id)
  )`,
  `create index on ${schema}.events (expires_at) where expires_at is not null`,
  // The newest event of a topic that is not kept any more: whoever stands before it has missed some.
  `create table ${schema}.pruned (
    topic text primary key,
    xid bigint not null,
    id bigint not null
  )`,
  // How far a consumer has come, and of which pruned events it knows that it has missed them.
  `create table ${schema}.positions (
    topic text not null,
    consumer text not null,
    xid bigint not null,
    id bigint not null,
    pruned_xid bigint not null,
    pruned_id bigint not null,
    updated_at timestamptz not null,
    primary key (topic, consumer)
  )`,
  // Numbers of transactions begin anew in a database that was restored from a dump: `lead` is added to them, and `high` is
  // one that was seen, on this server.
  `create table ${schema}.origin (
    one boolean primary key default true check (one),
    lead bigint not null,
    high bigint not null,
    server text not null default ''
  )`,
  `insert into ${schema}.origin (lead, high) values (0, 0)`
]
