/**
 * Keeping the history as long as it shall be kept.
 *
 * Any number of nodes may do it at once: what one is deleting the others skip, and nobody waits.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { type FinishedState, finishedStates } from "../Job.ts"
import type { Limits } from "../Retention.ts"
import { type Database, now } from "./database.ts"
import { keysOf } from "./keys.ts"
import * as Partitions from "./partitions.ts"

export { ensure as ensurePartitions } from "./partitions.ts"

/** What was removed. */
export interface Pruned {
  /** Jobs, those of whole partitions among them. */
  readonly jobs: number
  readonly partitions: number
  /** Unique keys: of these jobs, and others whose period is over. */
  readonly keys: number
}

/** How many rows one statement deletes. */
const batch = 10_000

/** Less than any row of the history takes on a page, in bytes. */
const rowSize = 128

/** An age that is not worth a comparison: three centuries. */
const forever = 1e13

/** Removes finished jobs that are older or more than `limits` allow, and unique keys that keep nobody out any more. */
export const prune = Effect.fnUntraced(function* (
  database: Database,
  limits: Limits
): Effect.fn.Return<Pruned, SqlError> {
  const found = yield* findCutoffs(database, limits)
  yield* detachPast(database, found)
  const dropped = yield* Partitions.drop(database)
  let { jobs, keys } = dropped
  for (const state of finishedStates) {
    const cutoff = found[state]
    if (cutoff === undefined) continue
    for (let n = batch; n === batch;) {
      const [row] = yield* database.run<{ readonly jobs: number; readonly keys: number }>(deletion(database, state), [
        cutoff.at,
        cutoff.id,
        batch
      ])
      n = row?.jobs ?? 0
      jobs += n
      keys += row?.keys ?? 0
    }
  }
  for (let n = batch; n === batch; keys += n) {
    const [row] = yield* database.timed<{ readonly keys: number }>(expiry(database), [batch])
    n = row?.keys ?? 0
  }
  return { jobs, partitions: dropped.partitions, keys }
})

/** The youngest job of a state that goes, by its end and its number. */
interface Cutoff {
  /** Exact, where a `Date` would not be. */
  readonly at: string
  readonly id: string
}

type Cutoffs = Readonly<Partial<Record<FinishedState, Cutoff>>>

const findCutoffs = Effect.fnUntraced(function* (database: Database, limits: Limits) {
  const rows = yield* database.timed<{ readonly state: FinishedState } & Cutoff>(
    cutoffs(database),
    finishedStates.flatMap((state) => {
      const { ageMillis, count } = limits[state]
      return [ageMillis < forever ? ageMillis : null, Number.isFinite(count) ? count : null]
    })
  )
  const found: { [S in FinishedState]?: Cutoff } = {}
  for (const { at, id, state } of rows) found[state] = { at, id }
  return found
})

/**
 * The cutoff of each state that has one: the later of those by age and by count.
 *
 * Counting reads an index from its end, for as many rows as are kept. A history that is too small for them need not be
 * counted, and one node at a time is enough.
 */
const cutoffs = (database: Database) => {
  const history = `${database.schema}.jobs_history`
  const ofState = (state: FinishedState, index: number) => {
    const age = `$${2 * index + 2}::float8`
    const count = `$${2 * index + 3}::float8`
    return `(
      select '${state}' as state, at, id from (
        select ${now} - ${age} * interval '1 millisecond' as at, ${Number.MAX_SAFE_INTEGER} as id where ${age} is not null
         union all (
        select finished_at, id from ${history}
         where state = '${state}' and (select bytes from size) > ${count} * ${rowSize} and (select open from gate)
         order by finished_at desc, id desc offset coalesce(${count}, 0)::bigint limit 1)
      ) candidates order by at desc, id desc limit 1)`
  }
  return `
    with size as materialized (
      select sum(pg_relation_size(inhrelid)) as bytes from pg_inherits where inhparent = '${history}'::regclass
    ), gate as materialized (
      select ${Partitions.nobodyElse(database)} as open
    )
    select state, to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, id::text as id
      from (${finishedStates.map(ofState).join(" union all ")}) cutoffs`
}

/** Detaches the partitions of days that are over in which nothing is left to keep. */
const detachPast = Effect.fnUntraced(function* (database: Database, found: Cutoffs) {
  const nothingToKeep = (partition: string) => {
    const kept = finishedStates.map((state) => {
      const cutoff = found[state]
      const younger = cutoff === undefined ? "" : ` and (finished_at, id) > ('${cutoff.at}', ${cutoff.id})`
      return `select from ${partition} where state = '${state}'${younger}`
    })
    return `not exists (${kept.join(" union all ")})`
  }
  for (const name of yield* Partitions.past(database, nothingToKeep)) {
    const outcome = yield* Partitions.detach(database, name, nothingToKeep)
    if (outcome === "busy" || outcome === "postponed") return
  }
})

/** Deletes the oldest jobs of a state, with their unique keys. */
const deletion = ({ schema }: Database, state: FinishedState) => `
  with x as materialized (
    select id, finished_at, unique_key from ${schema}.jobs_history
     where state = '${state}' and finished_at <= $1::text::timestamptz
       and (finished_at, id) <= ($1::text::timestamptz, $2::text::bigint)
     order by finished_at, id limit $3::int
       for update skip locked
  ), d as (
    delete from ${schema}.jobs_history
     where id = any(array(select id from x))
       and finished_at >= (select min(finished_at) from x) and finished_at <= (select max(finished_at) from x)
  ), k as (${keysOf(schema, "x")}
    returning key
  )
  select (select count(*) from x)::float8 as jobs, (select count(*) from k)::float8 as keys`

/** Deletes unique keys whose period is over: whoever wants one would take it from its job. */
const expiry = ({ schema }: Database) => `
  with x as materialized (
    select key from ${schema}.unique_keys where expires_at <= ${now}
     order by expires_at limit $2::int
       for update skip locked
  ), d as (
    delete from ${schema}.unique_keys u using x where u.key = x.key
  )
  select count(*)::float8 as keys from x`
