/**
 * The poll: one statement that makes due jobs available, and finds what this node's queues have.
 *
 * It is always on, whatever notifications do: a lost one costs no more than the time to the next poll.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { among, releaseKeys } from "./columns.ts"
import { type Database, now } from "./database.ts"

/** How many jobs become available in one statement. */
export const batch = 5_000

/** What the poll found. */
export interface Polled {
  /** Jobs that became available, per queue, this node's and others'. */
  readonly staged: Readonly<Record<string, number>>
  /** The first available job of each priority of this node's queues. */
  readonly heads: ReadonlyArray<{
    readonly queue: string
    readonly priority: number
    readonly queuedAt: number
    readonly id: number
  }>
  /** Milliseconds until the next scheduled job is due. */
  readonly nextDueMillis: number | undefined
}

interface Row {
  readonly staged: Readonly<Record<string, number>> | null
  readonly heads: Polled["heads"] | null
  readonly next: number | null
}

export const make = (database: Database) => {
  const { schema } = database
  const statement = `
    with due as materialized (
      select id, unique_key from ${schema}.jobs
       where state in ('scheduled', 'retryable') and scheduled_at <= ${now}
       order by scheduled_at, id limit ${batch}
         for no key update skip locked
    ), keys as (${releaseKeys(schema, "due", "'available'")}
    ), staged as (
      update ${schema}.jobs j set state = 'available', queued_at = ${now}
       where ${among("due")} and j.state not in ('available', 'executing')
      returning j.queue
    )
    select
      (select jsonb_object_agg(queue, n) from (select queue, count(*) as n from staged group by queue) s) as staged,
      (select jsonb_agg(jsonb_build_object('queue', q.name, 'priority', p.n, 'queuedAt', extract(epoch from h.queued_at) * 1000, 'id', h.id))
         from unnest($2::text[]) q(name) cross join generate_series(0, 9) p(n)
        cross join lateral (
          select queued_at, id from ${schema}.jobs
           where state = 'available' and queue = q.name and priority = p.n order by queued_at, id limit 1
        ) h) as heads,
      (select extract(epoch from scheduled_at - ${now})::float8 * 1000 from ${schema}.jobs
        where state in ('scheduled', 'retryable') and scheduled_at > ${now}
        order by scheduled_at limit 1) as next`
  return (queues: ReadonlyArray<string>): Effect.Effect<Polled, SqlError> =>
    Effect.map(database.timed<Row>(statement, [queues]), ([row]) => ({
      staged: row?.staged ?? {},
      heads: row?.heads ?? [],
      nextDueMillis: row?.next ?? undefined
    }))
}
