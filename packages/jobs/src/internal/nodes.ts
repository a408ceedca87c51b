/**
 * The nodes that run jobs: each says that it lives, and takes over what a dead one leaves.
 *
 * A node is one start of one process: its id is made anew each time, and never used again. Its row stays for a while after
 * its end, so that a job that it claimed with its last breath is found as well.
 */
import { Duration, Effect, Random } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { list, names, releaseKeys } from "./columns.ts"
import { type Database, now, numbers } from "./database.ts"

/** What a heartbeat tells. */
export interface Beat {
  /** Whether this node still counts as alive. If not, its jobs are somebody else's. */
  readonly registered: boolean
  /** What time it is for the database, in milliseconds. */
  readonly time: number
  /** Jobs that are not ours any more. */
  readonly lost: ReadonlyArray<number>
  /** Jobs that somebody wants to be cancelled. */
  readonly cancel: ReadonlyArray<number>
}

/** A job that was taken from a node that is gone. */
export interface Rescued {
  readonly id: number
  readonly worker: string
  readonly queue: string
  readonly attempt: number
  readonly lease: number
  readonly node: string
  readonly state: "available" | "retryable" | "discarded" | "cancelled"
}

/** A job that this node has without knowing. */
export interface Stray {
  readonly id: number
  readonly lease: number
  readonly queue: string
}

/** What follows from the time after which the jobs of a dead node must run elsewhere. */
export interface Lease {
  /** Between two heartbeats, and between two looks for dead nodes. */
  readonly interval: Duration.Duration
  /** Without a heartbeat for this long, a node counts as dead. */
  readonly expiry: Duration.Duration
  /** Without a heartbeat that succeeded for this long, a node gives its own jobs up. */
  readonly fence: Duration.Duration
}

/** A sixth, four sixths, and a margin before the expiry: with one more interval to look, all is done within the time. */
export const lease = (ttl: Duration.Duration): Lease => {
  const millis = Duration.toMillis(ttl)
  return {
    interval: Duration.millis(millis / 6),
    expiry: Duration.millis((millis * 4) / 6),
    fence: Duration.millis((millis * 7) / 12)
  }
}

/** How many jobs one statement rescues. */
export const batch = 1_000

/** A claim that is older than this has been answered, or never will be. */
const strayMillis = 10_000

/**
 * A job that was rescued before waits this long, times how often, and up to a half less or more: of jobs that were lost
 * together one may be what kills nodes, and the others are not to be beside it again.
 */
const secondsPerRescue = 15

interface BeatRow {
  readonly registered: boolean
  readonly time: number
  readonly id: number | null
  readonly lost: boolean | null
}

export const make = (database: Database, { expiry, interval: beatInterval }: Lease, maxRescues: number) => {
  const { schema } = database
  const expiryMillis = Duration.toMillis(expiry)
  const interval = (millis: number) => `interval '${millis} milliseconds'`

  const register = `
    insert into ${schema}.nodes (id, name, started_at, heartbeat_at) values (gen_random_uuid(), $2, ${now}, ${now})
    returning id`

  // Nobody is dead before somebody else has said so: a clock that was set forward kills no node.
  const beat = `
    with hb as (
      update ${schema}.nodes set heartbeat_at = ${now} where id = $2::uuid and stopped_at is null returning id
    )
    select exists (select from hb) as registered, (extract(epoch from ${now}) * 1000)::float8 as time, p.id, p.lost
      from (select) one left join lateral (
        select h.id::float8 as id, j.lease is distinct from h.lease or j.state is distinct from 'executing' as lost
          from unnest($3::bigint[], $4::bigint[]) h(id, lease)
          left join lateral (
            -- One by one, whatever the planner thought of the table when it was empty.
            select j.lease, j.state, j.cancel_requested_at from ${schema}.jobs j where j.id = h.id limit 1
          ) j on true
         where j.lease is distinct from h.lease or j.state is distinct from 'executing' or j.cancel_requested_at is not null
      ) p on true`

  // Who judges must have been heard of lately, by the same clock: when the server has stood still, nobody was. A job whose
  // node has no row any more is nobody's, but this node's own it gives up first. Between the look at the nodes and the lock
  // a job may go on to a node that is not among them; the lease tells.
  const rescue = `
    with me as materialized (
      select exists (select from ${schema}.nodes where id = $4::uuid and stopped_at is null
                        and heartbeat_at >= ${now} - ${interval(Duration.toMillis(beatInterval) * 2)}) as fresh
    ), dead as (
      update ${schema}.nodes n set stopped_at = ${now}
       where $2 and (select fresh from me) and n.id <> $4::uuid and n.stopped_at is null
         and n.heartbeat_at < ${now} - ${interval(expiryMillis)}
      returning n.id
    ), suspect as materialized (
      select j.id, j.lease, coalesce(n.name, 'unknown') as node
        from ${schema}.jobs j left join ${schema}.nodes n on n.id = j.leased_by
       where j.state = 'executing' and j.leased_by <> $4::uuid
         and (n.id is null or n.stopped_at is not null or n.id in (select id from dead))
       order by j.id limit ${batch}
    ), l as materialized (
      select j.id, j.unique_key, s.node,
             case when j.cancel_requested_at is not null then 'cancelled'
                  when j.rescues + 1 >= $3 or j.attempt >= j.max_attempts then 'discarded'
                  when j.rescues = 0 then 'available'
                  else 'retryable' end as state
        from ${schema}.jobs j join suspect s on j.id = s.id and j.lease = s.lease
       where j.state = 'executing'
       order by j.id
         for no key update of j skip locked
    ), keys as (${releaseKeys(schema, "l")}
    ), d as (
      delete from ${schema}.jobs j using l where j.id = l.id and l.state in ('cancelled', 'discarded')
      returning j.*, l.node, l.state as ended
    ), h as (
      insert into ${schema}.jobs_history (id, state, finished_at, ${names})
      select d.id, d.ended, ${now},
             ${list("d")
               .replace("d.errors", `d.errors || ${nodeLost("d", "d.node")}`)
               .replace("d.rescues", "d.rescues + 1")
               .replace("d.lease", "d.lease + 1")}
        from d
    ), u as (
      update ${schema}.jobs j
         set state = l.state, lease = j.lease + 1, leased_by = null, rescues = j.rescues + 1, queued_at = ${now},
             scheduled_at = ${now} + make_interval(secs => j.rescues * ${secondsPerRescue}
                              * (0.5 + (hashint8extended(j.id, $5::bigint) & 1023) / 1024.0)),
             errors = j.errors || ${nodeLost("j", "l.node")}
        from l where j.id = l.id and l.state in ('available', 'retryable')
    )
    select l.id::float8 as id, j.worker, j.queue, j.attempt, j.lease::float8 as lease, l.node, l.state
      from l join ${schema}.jobs j on j.id = l.id`

  // A claim whose answer was lost on the way: the database thinks that we run it.
  const strays = `
    select j.id::float8 as id, j.lease::float8 as lease, j.queue from ${schema}.jobs j
     where j.state = 'executing' and j.leased_by = $2::uuid and j.id <> all($3::bigint[])
       and j.attempted_at < ${now} - ${interval(strayMillis)}
     order by j.id limit ${batch}`

  const giveBack = `
    with l as materialized (
      select j.id, j.unique_key from ${schema}.jobs j join unnest($3::bigint[], $4::bigint[]) s(id, lease) on j.id = s.id
       where j.state = 'executing' and j.leased_by = $2::uuid and j.lease = s.lease
       order by j.id
         for no key update of j skip locked
    ), keys as (${releaseKeys(schema, "l", "'available'")}
    )
    update ${schema}.jobs j set state = 'available', attempt = j.attempt - 1, lease = j.lease + 1, leased_by = null
      from l where j.id = l.id`

  // Late claims of a dead node are found for as long as its row stays.
  const forget = `
    delete from ${schema}.nodes n
     where stopped_at < ${now} - ${interval(expiryMillis * 10)}
       and not exists (select from ${schema}.jobs j where j.state = 'executing' and j.leased_by = n.id)`

  return {
    /** Makes a node of that name. Answers its id. */
    register: (name: string): Effect.Effect<string, SqlError> =>
      Effect.map(database.timed<{ readonly id: string }>(register, [name]), ([row]) => row?.id ?? ""),
    beat: (id: string, ids: ReadonlyArray<number>, leases: ReadonlyArray<number>): Effect.Effect<Beat, SqlError> =>
      Effect.map(database.timed<BeatRow>(beat, [id, numbers(ids), numbers(leases)]), (rows) => ({
        registered: rows[0]?.registered === true,
        time: rows[0]?.time ?? 0,
        lost: rows.flatMap((row) => (row.id !== null && row.lost === true ? [row.id] : [])),
        cancel: rows.flatMap((row) => (row.id !== null && row.lost === false ? [row.id] : []))
      })),
    /**
     * Takes jobs from nodes that stopped, and, with `expired`, from those that were not heard of for too long, unless the
     * node `id` was not heard of lately either. Answers the jobs; if there are as many as `batch`, there may be more.
     */
    rescue: (id: string, expired: boolean): Effect.Effect<ReadonlyArray<Rescued>, SqlError> =>
      Effect.flatMap(Random.nextInt, (seed) => database.timed<Rescued>(rescue, [expired, maxRescues, id, seed])),
    /** Jobs that this node claimed a while ago, and that are not among those that it knows. */
    strays: (id: string, known: ReadonlyArray<number>): Effect.Effect<ReadonlyArray<Stray>, SqlError> =>
      database.timed<Stray>(strays, [id, numbers(known)]),
    /** Makes such jobs available again, as if they had not been claimed. */
    giveBack: (id: string, strays: ReadonlyArray<Stray>): Effect.Effect<void, SqlError> =>
      Effect.asVoid(
        database.timed(giveBack, [id, numbers(strays.map(({ id }) => id)), numbers(strays.map(({ lease }) => lease))])
      ),
    forget: Effect.asVoid(database.timed(forget)),
    /** Says that this node is gone: what it still has is anybody's at once. */
    stop: (id: string): Effect.Effect<void, SqlError> =>
      Effect.asVoid(
        database.timed(`update ${schema}.nodes set stopped_at = ${now} where id = $2::uuid and stopped_at is null`, [
          id
        ])
      )
  }
}

/** The error entry of a job whose node is gone. */
const nodeLost = (job: string, node: string): string => `
  jsonb_build_array(jsonb_build_object(
    'at', to_char(${now} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'attempt', ${job}.attempt,
    'kind', 'node lost', 'message', 'the node that ran it was not heard of any more', 'node', ${node}))`
