/**
 * What is said of queues at run time, and what a node makes of it.
 *
 * The table `queues` has a row for each queue (node `''`), and one for each queue on a node by name. The last word holds:
 * what is said of every node takes back what was said of single ones before, as if each of them had been told.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Shape } from "../Jobs.ts"
import type { JobEvent } from "../JobEvent.ts"
import type { InvalidQueue, Limits, Options, Target } from "../Queue.ts"
import type { Client } from "./client.ts"
import { type Database, now } from "./database.ts"
import { checkCount, checkLimits, checkName, checkOptions, checkTarget, everywhere, isLimited } from "./queueLimits.ts"
import * as QueueStatus from "./queueStatus.ts"

/** How a node is to run a queue. */
export interface Settings {
  readonly paused: boolean
  /** How many jobs run at once on the node. */
  readonly limit: number
  /** Whether there are limits over all nodes: then jobs are claimed by `limitedClaim`. */
  readonly limited: boolean
}

/** Changing queues, and looking at them. */
export const make = (client: Client): Pick<Shape, "limit" | "pause" | "queues" | "resume" | "scale"> => {
  const { database } = client
  const { schema } = database

  const told = (queue: string, change: Extract<JobEvent, { readonly _tag: "QueueChanged" }>["change"]) =>
    Effect.andThen(client.signal({ _tag: "Queue", queue }), client.emit([{ _tag: "QueueChanged", queue, change }]))

  // The row of every node is written first, so that two that do the same wait for each other there.
  const set = (column: "paused" | "local_limit", type: "boolean" | "int") => {
    const one = `
      insert into ${schema}.queues as q (name, node, ${column}, updated_at) values ($2, $3, $4::${type}, ${now})
      on conflict (name, node) do update set ${column} = excluded.${column}, updated_at = excluded.updated_at`
    const all = `
      with said as (${one} returning q.name)
      update ${schema}.queues q set ${column} = null, updated_at = ${now} from said
       where q.name = said.name and q.node <> '' and q.${column} is not null`
    return (queue: string, node: string, value: boolean | number | null): Effect.Effect<unknown, SqlError> =>
      database.timed(node === everywhere ? all : one, [queue, node, value])
  }
  const setPaused = set("paused", "boolean")
  const setLimit = set("local_limit", "int")

  const pausing = (paused: boolean) =>
    Effect.fnUntraced(function* (queue: string, target?: Target) {
      yield* checkName(queue)
      yield* setPaused(queue, yield* checkTarget(queue, target), paused)
      yield* told(queue, paused ? "paused" : "resumed")
    })

  const limiting = `
    insert into ${schema}.queues as q
      (name, global_limit, partition_limit, rate_limit, rate_period_ms, partition_rate_limit, partition_rate_period_ms, updated_at)
    values ($2, $3, $4, $5, $6, $7, $8, ${now})
    on conflict (name, node) do update set
      global_limit = coalesce(excluded.global_limit, q.global_limit),
      partition_limit = coalesce(excluded.partition_limit, q.partition_limit),
      rate_limit = coalesce(excluded.rate_limit, q.rate_limit),
      rate_period_ms = case when excluded.rate_limit is null then q.rate_period_ms else excluded.rate_period_ms end,
      partition_rate_limit = coalesce(excluded.partition_rate_limit, q.partition_rate_limit),
      partition_rate_period_ms = case when excluded.partition_rate_limit is null then q.partition_rate_period_ms
                                      else excluded.partition_rate_period_ms end,
      updated_at = excluded.updated_at`

  return {
    pause: pausing(true),
    resume: pausing(false),
    scale: Effect.fnUntraced(function* (queue: string, limit: number | null, target?: Target) {
      yield* checkName(queue)
      const node = yield* checkTarget(queue, target)
      if (limit !== null) yield* checkCount(queue, "limit", limit)
      yield* setLimit(queue, node, limit)
      yield* told(queue, "scaled")
    }),
    limit: Effect.fnUntraced(function* (queue: string, limits: Limits) {
      yield* checkName(queue)
      const { global, partition, partitionRate, partitionRateMillis, rate, rateMillis } = yield* checkLimits(
        queue,
        limits
      )
      if ([global, partition, partitionRate, rate].every((limit) => limit === null)) return
      yield* database.timed(limiting, [queue, global, partition, rate, rateMillis, partitionRate, partitionRateMillis])
      yield* told(queue, "limited")
    }),
    queues: QueueStatus.make(database)
  }
}

/**
 * Reads how the node of that name is to run its queues: what was said of it by name, else of every node, else what its
 * code says. One statement by primary key.
 */
export const settings = (
  database: Database,
  node: string,
  queues: ReadonlyMap<string, { readonly options: Options }>
): Effect.Effect<ReadonlyMap<string, Settings>, SqlError> => {
  const { schema } = database
  const statement = `
    select n.name, coalesce(o.paused, e.paused) as paused, coalesce(o.local_limit, e.local_limit) as limit,
           ${isLimited("e")} as limited
      from unnest($1::text[]) n(name)
      left join ${schema}.queues e on e.name = n.name and e.node = ''
      left join ${schema}.queues o on o.name = n.name and o.node = $2`
  return Effect.map(database.run<SettingsRow>(statement, [[...queues.keys()], node]), (rows) => {
    const said = new Map(rows.map((row) => [row.name, row]))
    return new Map(
      Array.from(queues, ([name, { options }]) => {
        const { limit, limited, paused } = said.get(name) ?? { limit: null, limited: false, paused: null }
        return [name, { paused: paused ?? options.paused ?? false, limit: limit ?? options.limit, limited }]
      })
    )
  })
}

interface SettingsRow {
  readonly name: string
  readonly paused: boolean | null
  readonly limit: number | null
  readonly limited: boolean
}

/**
 * Writes the limits over all nodes that code says, before a node claims anything.
 *
 * They are kept apart from what was said at run time, which wins for as long as it is there. A new release's limits take
 * the place of the old one's with the first node of it that starts, for the nodes of the old one too; a queue that the
 * code no longer limits is no longer limited. Queues that the code does not name are left as they are.
 */
export const registerDefaults = (database: Database) => {
  const { schema } = database
  const statement = `
    insert into ${schema}.queues as q
      (name, code_global_limit, code_partition_limit, code_rate_limit, code_rate_period_ms, code_partition_rate_limit,
       code_partition_rate_period_ms, updated_at)
    select name, global, partition, rate, "rateMillis", "partitionRate", "partitionRateMillis", ${now}
      from jsonb_to_recordset($2::text::jsonb) c(name text, global int, partition int, rate int, "rateMillis" bigint,
           "partitionRate" int, "partitionRateMillis" bigint)
     order by name
    on conflict (name, node) do update set
      code_global_limit = excluded.code_global_limit,
      code_partition_limit = excluded.code_partition_limit,
      code_rate_limit = excluded.code_rate_limit,
      code_rate_period_ms = excluded.code_rate_period_ms,
      code_partition_rate_limit = excluded.code_partition_rate_limit,
      code_partition_rate_period_ms = excluded.code_partition_rate_period_ms,
      updated_at = excluded.updated_at
    where (q.code_global_limit, q.code_partition_limit, q.code_rate_limit, q.code_rate_period_ms,
           q.code_partition_rate_limit, q.code_partition_rate_period_ms)
      is distinct from (excluded.code_global_limit, excluded.code_partition_limit, excluded.code_rate_limit,
           excluded.code_rate_period_ms, excluded.code_partition_rate_limit, excluded.code_partition_rate_period_ms)`
  return (queues: Readonly<Record<string, Options>>): Effect.Effect<void, InvalidQueue | SqlError> =>
    Effect.gen(function* () {
      const rows = yield* Effect.forEach(Object.entries(queues), ([name, options]) =>
        Effect.map(checkOptions(name, options), (columns) => ({ name, ...columns }))
      )
      if (rows.length > 0) yield* database.timed(statement, [JSON.stringify(rows)])
    })
}
