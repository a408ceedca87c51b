/**
 * Queues as the database knows them.
 */
import { Duration, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Rate, Status } from "../Queue.ts"
import { type Database, now } from "./database.ts"
import { effective } from "./queueLimits.ts"

/** Up to how many available jobs of a queue are counted. */
const availableCap = 10_000

/** How many scheduled and retryable jobs of all queues are counted: those that are due next. */
const dueCap = 50_000

interface Row {
  readonly name: string
  readonly paused: boolean | null
  readonly paused_on: ReadonlyArray<string>
  readonly local_limit: number | null
  readonly limit_on: Readonly<Record<string, number>>
  readonly global: number | null
  readonly partition: number | null
  readonly rate: number | null
  readonly rate_millis: number | null
  readonly partition_rate: number | null
  readonly partition_rate_millis: number | null
  readonly available: number
  readonly executing: number
  readonly scheduled: number
  readonly retryable: number
  readonly oldest_millis: number | null
}

/** All queues by name: those of which something was said, and those that have jobs. */
export const make = (database: Database): Effect.Effect<ReadonlyArray<Status>, SqlError> => {
  const { schema } = database
  const statement = `
    with recursive waiting(name) as (
      (select queue from ${schema}.jobs where state = 'available' order by queue limit 1)
      union all
      select (select queue from ${schema}.jobs where state = 'available' and queue > w.name order by queue limit 1)
        from waiting w where w.name is not null
    ), executing as (
      select queue as name, count(*) as n from ${schema}.jobs where state = 'executing' group by queue
    ), due as (
      select queue as name, count(*) filter (where state = 'scheduled') as scheduled,
             count(*) filter (where state = 'retryable') as retryable
        from (select queue, state from ${schema}.jobs where state in ('scheduled', 'retryable')
               order by scheduled_at limit ${dueCap}) d
       group by queue
    ), names as (
      select name from waiting where name is not null
      union select name from executing union select name from due union select name from ${schema}.queues
    )
    select n.name, q.paused, q.local_limit, ${effective("q")},
           coalesce(o.paused_on, '{}') as paused_on, coalesce(o.limit_on, '{}') as limit_on,
           a.n::int as available, coalesce(e.n, 0)::int as executing, coalesce(d.scheduled, 0)::int as scheduled,
           coalesce(d.retryable, 0)::int as retryable, h.oldest_millis
      from names n
      left join ${schema}.queues q on q.name = n.name and q.node = ''
      left join executing e on e.name = n.name
      left join due d on d.name = n.name
     cross join lateral (
       select array_agg(node order by node) filter (where paused) as paused_on,
              jsonb_object_agg(node, local_limit) filter (where local_limit is not null) as limit_on
         from ${schema}.queues where name = n.name and node <> ''
     ) o
     cross join lateral (
       select count(*) as n
         from (select from ${schema}.jobs where state = 'available' and queue = n.name limit ${availableCap}) x
     ) a
     cross join lateral (
       select (extract(epoch from ${now} - min(x.queued_at)) * 1000)::float8 as oldest_millis
         from generate_series(0, 9) p(priority)
        cross join lateral (
          select queued_at from ${schema}.jobs where state = 'available' and queue = n.name and priority = p.priority
           order by queued_at limit 1
        ) x
     ) h
     order by n.name`
  return Effect.map(database.timed<Row>(statement), (rows) => rows.map(status))
}

const status = (row: Row): Status => ({
  name: row.name,
  paused: row.paused ?? false,
  pausedOn: row.paused_on,
  limit: row.local_limit ?? undefined,
  limitOn: row.limit_on,
  limits: {
    ...(row.global !== null && { global: row.global }),
    ...(row.partition !== null && { perPartition: row.partition }),
    ...rate("rate", row.rate, row.rate_millis),
    ...rate("ratePerPartition", row.partition_rate, row.partition_rate_millis)
  },
  available: row.available,
  executing: row.executing,
  scheduled: row.scheduled,
  retryable: row.retryable,
  oldestAvailable: row.oldest_millis === null ? undefined : Duration.millis(Math.max(0, Number(row.oldest_millis)))
})

const rate = (name: "rate" | "ratePerPartition", limit: number | null, millis: number | null): Record<string, Rate> =>
  limit === null || millis === null ? {} : { [name]: { limit, period: Duration.millis(Number(millis)) } }
