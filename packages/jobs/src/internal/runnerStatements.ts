/**
 * The statements of a runner: which jobs there are to run, and taking one of them.
 */
import { DateTime, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { type ClaimedRow, claimed, returned } from "./claim.ts"
import { releaseKeys } from "./columns.ts"
import { type Database, idOf, now, type Timestamp } from "./database.ts"
import * as Stage from "./stage.ts"

/** A claimed job with its queue, which producers know already. */
export interface Claim {
  readonly row: ClaimedRow
  readonly queue: string
}

/** Available jobs, in the order in which they are to run. */
export interface Candidates {
  readonly ids: ReadonlyArray<number>
  /** How many there are for which the code is missing here. */
  readonly unclaimable: number
}

/** Workers by name, with the newest version of their args that this process knows. */
export type Known = ReadonlyMap<string, number>

export const make = (database: Database) => {
  const { schema } = database

  // A job that becomes available while others run is not among them: this is what a drain without recursion runs.
  const candidates = `
    with x as (
      select j.id, j.priority, j.queued_at,
             exists (select from unnest($2::text[], $3::int[]) w(name, version)
                      where w.name = j.worker and j.args_version <= w.version) as known
        from ${schema}.jobs j
       where j.state = 'available' and ($1::text is null or j.queue = $1::text)
    )
    select (select array_agg(first.id::float8 order by priority, queued_at, id)
              from (select * from x where known order by priority, queued_at, id limit $4::bigint) first) as ids,
           (select count(*)::int from x where not known) as unclaimable`

  const claim = (states: string) => `
    with c as materialized (
      select id, unique_key from ${schema}.jobs
       where id = $2::text::bigint and state in (${states})
         for no key update skip locked
    ), keys as (${releaseKeys(schema, "c", "'executing'")}
    )
    update ${schema}.jobs j set ${claimed("$3::uuid", now)} from c where j.id = c.id
    returning ${returned}, j.queue`
  const claimAvailable = claim("'available'")
  const claimAny = claim("'available', 'scheduled', 'retryable'")

  const early = `
    with due as materialized (
      select id, unique_key from ${schema}.jobs
       where state in ('scheduled', 'retryable') and scheduled_at <= coalesce($2::text::timestamptz, 'infinity')
         and ($3::text is null or queue = $3::text)
       order by id
         for no key update skip locked
    ), keys as (${releaseKeys(schema, "due", "'available'")}
    )
    update ${schema}.jobs j set state = 'available', queued_at = ${now} from due where j.id = due.id`

  // Nothing of this node is left when all went well. If something is, its row says that it is anybody's.
  const leave = `
    with gone as (
      delete from ${schema}.nodes n
       where n.id = $2::uuid
         and not exists (select from ${schema}.jobs j where j.state = 'executing' and j.leased_by = n.id)
      returning n.id
    )
    update ${schema}.nodes set stopped_at = ${now}
     where id = $2::uuid and stopped_at is null and not exists (select from gone)`

  const stage = Stage.make(database)

  return {
    candidates: (
      queue: string | undefined,
      known: Known,
      limit: number | undefined
    ): Effect.Effect<Candidates, SqlError> =>
      Effect.map(
        database.run<{ readonly ids: ReadonlyArray<number> | null; readonly unclaimable: number }>(candidates, [
          queue ?? null,
          [...known.keys()],
          [...known.values()],
          limit === undefined || limit === Number.POSITIVE_INFINITY ? null : limit
        ]),
        ([row]) => ({ ids: (row?.ids ?? []).map(idOf), unclaimable: row?.unclaimable ?? 0 })
      ),

    /** Claims a job if nobody has it, and, unless `early`, only if it is available. */
    claim: (id: number, node: string, early: boolean): Effect.Effect<Claim | undefined, SqlError> =>
      Effect.map(database.timed<Returned>(early ? claimAny : claimAvailable, [String(id), node]), ([row]) =>
        row === undefined ? undefined : { row: dated(row), queue: row.queue }
      ),

    /** Makes available what is due. Answers in how many milliseconds the next job is. */
    stage: Effect.gen(function* () {
      while (true) {
        const { nextDueMillis, staged } = yield* stage([])
        let count = 0
        for (const n of Object.values(staged)) count += n
        if (count < Stage.batch) return nextDueMillis
      }
    }),

    /** Makes available what is scheduled up to an instant, or for whenever it is. */
    stageEarly: (until: Date | undefined, queue: string | undefined): Effect.Effect<void, SqlError> =>
      Effect.asVoid(database.timed(early, [until?.toISOString() ?? null, queue ?? null])),

    leave: (node: string): Effect.Effect<void, SqlError> => Effect.asVoid(database.timed(leave, [node]))
  }
}

/** A claimed job on the application's client. */
type Returned = Omit<ClaimedRow, Instants | "cron_at">
  & Readonly<Record<Instants, Timestamp>> & {
    readonly cron_at: Timestamp | null
    readonly queue: string
  }
type Instants = "inserted_at" | "scheduled_at" | "attempted_at" | "queued_at"

/** The same as the queue's own connections would give it. */
const dated = (row: Returned): ClaimedRow => ({
  ...row,
  id: idOf(row.id),
  lease: Number(row.lease),
  inserted_at: dateOf(row.inserted_at),
  scheduled_at: dateOf(row.scheduled_at),
  attempted_at: dateOf(row.attempted_at),
  queued_at: dateOf(row.queued_at),
  cron_at: row.cron_at === null ? null : dateOf(row.cron_at)
})

const dateOf = (at: Timestamp): Date => DateTime.toDateUtc(DateTime.makeUnsafe(at))
