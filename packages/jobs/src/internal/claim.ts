/**
 * Taking jobs for this node.
 *
 * A claim locks with `for no key update skip locked`: nodes do not wait for each other, and a foreign key to a job does not
 * hide it. What a claim writes, the lease above all, is the fence of everything that the node does with the job later.
 */
import { DateTime, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { among, releaseKeys } from "./columns.ts"
import { type Database, now } from "./database.ts"
import { isLimited } from "./queueLimits.ts"

/** A claimed job as it comes from the database. */
export interface ClaimedRow {
  readonly id: number
  readonly lease: number
  readonly worker: string
  readonly args: unknown
  readonly args_version: number
  readonly attempt: number
  readonly max_attempts: number
  readonly priority: number
  /** Null for none, as most often; so is `meta`. */
  readonly tags: ReadonlyArray<string> | null
  readonly meta: Readonly<Record<string, unknown>> | null
  readonly inserted_at: Date
  readonly scheduled_at: Date
  readonly attempted_at: Date
  readonly queued_at: Date
  readonly trace: string | null
  readonly cron_name: string | null
  readonly cron_at: Date | null
  /** Whether it has a unique key; it keeps it, or has none, as long as it lives. */
  readonly unique: boolean
}

/** What a claim returns of each job `j`. Ids and leases as double precision: exact up to 2^53, and numbers in JavaScript. */
export const returned = `
  j.id::float8 as id, j.lease::float8 as lease, j.worker, j.args, j.args_version, j.attempt, j.max_attempts, j.priority,
  nullif(j.tags, '{}') as tags, nullif(j.meta, '{}') as meta, j.inserted_at, j.scheduled_at, j.attempted_at, j.queued_at, j.trace,
  j.cron_name, j.cron_at, j.unique_key is not null as "unique"`

/** What a claim sets; `node` and `time` are expressions. */
export const claimed = (node: string, time: string): string => `
  state = 'executing', attempt = j.attempt + 1, lease = j.lease + 1, leased_by = ${node}, attempted_at = ${time}`

/** Jobs that this node must leave to others: `worker`, or `worker@version`. */
export type Excluded = ReadonlyArray<string>

/**
 * Claims at most `demand` jobs of a queue without limits over all nodes, and none of one that has got some of which the
 * node does not know yet.
 */
export const make = (database: Database) => {
  const { schema } = database
  // Each priority has its own low-water mark, so that a claim does not walk over what was claimed before it: the dead
  // index entries that vacuum cannot remove while somebody holds an old snapshot. The marks are parameters, because a
  // subquery would not bound the index scan.
  const statement = (excluding: string) => `
    with c as materialized (
      select x.id, x.unique_key
        from unnest($4::smallint[], $5::timestamptz[], $6::bigint[]) low(priority, queued_at, id)
       cross join lateral (
         select id, unique_key from ${schema}.jobs
          where state = 'available' and queue = $2 and priority = low.priority
            and (queued_at, id) > (low.queued_at, low.id) ${excluding}
          order by queued_at, id
          limit $3
            for no key update skip locked
       ) x
       where not exists (select from ${schema}.queues q where q.name = $2 and q.node = '' and ${isLimited("q")})
       limit $3
    ), keys as (${releaseKeys(schema, "c", "'executing'")}
    )
    update ${schema}.jobs j set ${claimed("$7::uuid", now)} where ${among("c")}
    returning ${returned}`
  const all = statement("")
  const others = statement("and not (worker = any($8::text[]) or worker || '@' || args_version = any($8::text[]))")
  return (
    queue: string,
    demand: number,
    node: string,
    after: After,
    excluded: Excluded
  ): Effect.Effect<ReadonlyArray<ClaimedRow>, SqlError> => {
    const params = [queue, demand, priorities, after.times, after.ids, node]
    const claimed =
      excluded.length === 0
        ? database.timed<ClaimedRow>(all, params)
        : database.timed<ClaimedRow>(others, [...params, excluded])
    return Effect.map(claimed, (rows) => rows.toSorted(inTurn))
  }
}

/** What is changed comes back in any order. */
const inTurn = (a: ClaimedRow, b: ClaimedRow): number =>
  a.priority - b.priority || a.queued_at.getTime() - b.queued_at.getTime() || a.id - b.id

const priorities = "{0,1,2,3,4,5,6,7,8,9}"

/** Where a claim begins, as arrays by priority: after this instant, and in it after this id. */
export interface After {
  readonly times: string
  readonly ids: string
}

/** A place in the order of a priority. */
interface Place {
  readonly at: number
  readonly id: number
}

/**
 * Per priority, the place before which no available job of a queue is left, as far as is known.
 *
 * Claims raise the marks. A claim that goes on with a backlog begins exactly there; one that was told of something begins
 * `slack` before, because a transaction may commit a job some time after it made it. What commits later than that is found
 * by the poll, which looks from the beginning and lowers the marks.
 */
export class Marks {
  private readonly low: Array<Place | undefined> = Array.from({ length: 10 }, () => undefined)

  /** Where the next claim begins. */
  after(slack: boolean): After {
    const { low } = this
    const time = ({ at }: Place) => DateTime.formatIso(DateTime.makeUnsafe(slack ? at - slackMillis : at))
    return {
      times: `{${low.map((place) => (place === undefined ? "-infinity" : time(place))).join(",")}}`,
      ids: `{${low.map((place) => (place === undefined || slack ? 0 : place.id)).join(",")}}`
    }
  }

  /** A claim that took these rows found nothing before them. */
  raise(rows: ReadonlyArray<ClaimedRow>): void {
    for (const { id, priority, queued_at } of rows) {
      const at = queued_at.getTime()
      const place = this.low[priority]
      if (place === undefined || at > place.at || (at === place.at && id > place.id)) this.low[priority] = { at, id }
    }
  }

  /** There is a job at this place. */
  lower(priority: number, at: number, id: number): void {
    const place = this.low[priority]
    if (place !== undefined && (at < place.at || (at === place.at && id <= place.id))) {
      this.low[priority] = { at, id: id - 1 }
    }
  }
}

const slackMillis = 2_000
