/**
 * The statements of durable topics.
 *
 * The order of events is that of their transactions' numbers, which are given when a transaction first writes: one may
 * commit long after another with a higher number. Below the horizon, the lowest number that is still in progress, nothing
 * can come any more, and nobody is shown what is not below it. So what one reader has seen is what every other will see.
 */
import { DateTime, Duration, Effect } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { numbersOf, type Position, positionOf } from "./position.ts"
import type { TimeSource } from "./time.ts"

/** One schema of one database. */
export interface Database {
  /** Quoted. */
  readonly schema: string
  readonly time: TimeSource
  readonly sql: SqlClient
}

/** An event as it is stored. */
export interface Row {
  readonly position: Position
  /** Text of JSON. */
  readonly event: string
  readonly insertedAt: DateTime.Utc
}

/** What comes after a position. */
export interface Page {
  readonly rows: ReadonlyArray<Row>
  /** Whether there are more events, which a transaction in progress holds back. */
  readonly held: boolean
  /** The last event of the topic that was removed because of its age. */
  readonly pruned: Position | undefined
  /** Where the order ends now: whatever comes is not before. */
  readonly horizon: Position
}

/** The place of a consumer, and what comes after it. */
export interface ConsumerPage extends Page {
  readonly position: Position
  /** The last pruned event that it knows to have missed. */
  readonly told: Position
}

/** A registered consumer, and what waits for it. */
export interface ConsumerRow {
  readonly consumer: string
  readonly position: Position
  readonly updatedAt: DateTime.Utc
  readonly unread: number
  readonly held: number
  readonly oldest: DateTime.Utc | undefined
}

/** A page has no more events when there is so much in it, as stored: what is large is not to fill the memory. */
const pageBytes = 4 * 1_024 * 1_024

/** More than this is for ever. */
const longestMillis = Duration.toMillis("36500 days")

export type Store = ReturnType<typeof make>

export const make = ({ schema, sql, time }: Database) => {
  const run = <Columns extends object>(text: string, params: ReadonlyArray<unknown>) =>
    // The application's client may rename columns of results; these are our own.
    sql.unsafe<Columns>(text, params).withoutTransform
  /** Runs a statement whose `$1` is the time. */
  const timed = <Columns extends object>(text: string, params: ReadonlyArray<unknown>) =>
    time === "database"
      ? run<Columns>(text, [null, ...params])
      : Effect.flatMap(DateTime.nowAsDate, (date) => run<Columns>(text, [date, ...params]))

  const insert = `
    insert into ${schema}.events (topic, xid, event, inserted_at, expires_at)
    select $2, pg_current_xact_id()::text::bigint + o.lead, e.event, ${now},
           ${now} + $4::float8 * interval '1 millisecond'
      from ${schema}.origin o, json_array_elements($3::json) with ordinality e (event, n)
     where not ${moved}
     order by e.n
    returning ${positionOf("xid", "id")} as position`

  const events = (after: string, limit: string) => `
    left join lateral (
      select f.* from (
        select e.xid, e.id, e.event, e.inserted_at,
               sum(pg_column_size(e.event)) over (order by e.xid, e.id rows unbounded preceding)
                 - pg_column_size(e.event) as bytes_before
          from ${schema}.events e
         where e.topic = $1 and (e.xid, e.id) > (${after})
         order by e.xid, e.id limit ${limit}::text::int
      ) f where f.bytes_before < ${pageBytes}
    ) e on true`

  const columns = `
    ${positionOf("o.horizon", "0")} as horizon, o.moved, ${positionOf("m.xid", "m.id")} as pruned,
    ${positionOf("e.xid", "e.id")} as position, ${ready} as ready,
    case when ${ready} then e.event::text end as event, ${millis("e.inserted_at")} as at`

  const origin = `
    (select ${horizon} as horizon, ${own} as own, ${moved} as moved from ${schema}.origin o) o`

  const page = `
    select ${columns}
      from ${origin}
      left join ${schema}.pruned m on m.topic = $1
           ${events("$2::text::bigint, $3::text::bigint", "$4")}
     order by e.xid, e.id`

  const consumerPage = `
    select ${columns}, ${positionOf("p.xid", "p.id")} as place, ${positionOf("p.pruned_xid", "p.pruned_id")} as told
      from ${origin}
      left join ${schema}.positions p on p.topic = $1 and p.consumer = $2
      left join ${schema}.pruned m on m.topic = $1
           ${events("p.xid, p.id", "$3")}
     order by e.xid, e.id`

  const place = `
    insert into ${schema}.positions (topic, consumer, xid, id, pruned_xid, pruned_id, updated_at)
    select $2, $3, $4::text::bigint, $5::text::bigint,
           case when $6::boolean then coalesce(m.xid, 0) else 0 end,
           case when $6::boolean then coalesce(m.id, 0) else 0 end, ${now}
      from (select) one left join ${schema}.pruned m on m.topic = $2
    on conflict (topic, consumer)`

  const prune = `
    with gone as (
      delete from ${schema}.events where ctid = any(array(
        select ctid from ${schema}.events where expires_at <= ${now} order by expires_at limit $2::text::int
           for update skip locked))
      returning topic, xid, id
    ), marked as (
      insert into ${schema}.pruned as m (topic, xid, id)
      select distinct on (topic) topic, xid, id from gone order by topic, xid desc, id desc
      on conflict (topic) do update set xid = excluded.xid, id = excluded.id
       where (m.xid, m.id) < (excluded.xid, excluded.id)
    )
    select count(*)::float8 as pruned from gone`

  // Who has positions from before, and who has a transaction in progress, is behind what comes from now on.
  const repair = (server: string) => `
    update ${schema}.origin o
       set lead = case when ${next} > b.latest then o.lead
                       else b.latest + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint end,
           high = greatest(o.high, b.latest + 1), server = ${server}
      from (select o.lead, greatest(
              o.high - 1, (select max(e.xid) from ${schema}.events e where e.xid <> ${own}),
              (select max(p.xid) from ${schema}.positions p where p.xid <> ${own}),
              (select max(xid) from ${schema}.pruned)) as latest
              from ${schema}.origin o) b
    returning o.lead <> b.lead as repaired`

  /** Where numbers of transactions have begun anew, goes on after those that were there. */
  const mend = (server: string) =>
    run(`insert into ${schema}.origin (lead, high) values (0, 0) on conflict do nothing`, []).pipe(
      // Who comes second looks again when the first is done.
      Effect.andThen(run(`select 1 from ${schema}.origin for update`, [])),
      Effect.andThen(run<{ readonly repaired: boolean }>(repair(server), [])),
      sql.withTransaction,
      Effect.flatMap(([row]) =>
        row?.repaired === true
          ? Effect.logWarning(
              "The database counts its transactions anew, as one does that was restored from a dump: durable events go on"
                + " after those that were there"
            )
          : Effect.void
      )
    )

  const elsewhere = Effect.map(
    run<{ readonly elsewhere: boolean }>(`select server <> ${server} as elsewhere from ${schema}.origin`, []),
    ([row]) => row?.elsewhere !== false
  )

  /** Looks at all there is if this is another server than the last time, or not known to be the same. */
  const recognize = Effect.catchCause(elsewhere, (cause) =>
    Effect.as(Effect.logDebug("The server does not say who it is", cause), false)
  ).pipe(Effect.flatMap((moved) => (moved ? mend(server) : Effect.void)))

  /** Runs a statement again when it found that the database has begun anew. */
  const mending = <A extends { readonly moved: boolean }>(
    statement: Effect.Effect<ReadonlyArray<A>, SqlError>
  ): Effect.Effect<ReadonlyArray<A>, SqlError> =>
    Effect.flatMap(statement, (rows) =>
      rows[0]?.moved !== false ? Effect.andThen(mend("o.server"), statement) : Effect.succeed(rows)
    )

  const horizonNow = Effect.map(
    mending(
      run<{ readonly horizon: Position; readonly moved: boolean }>(
        `select ${positionOf("o.horizon", "0")} as horizon, o.moved from ${origin}`,
        []
      )
    ),
    // The table has one row.
    ([row]) => row?.horizon as Position
  )

  return {
    sql,
    time,
    horizon: horizonNow,

    /** Writes events, texts of JSON, which are kept for so long. Their positions, in their order. */
    insert: (topic: string, events: ReadonlyArray<string>, retentionMillis: number) => {
      const params = [topic, `[${events.join(",")}]`, retentionMillis > longestMillis ? null : retentionMillis]
      const statement = timed<{ readonly position: Position }>(insert, params)
      return Effect.map(
        Effect.flatMap(statement, (rows) =>
          rows.length === 0 ? Effect.andThen(mend("o.server"), statement) : Effect.succeed(rows)
        ),
        // Nobody says in which order they are returned; their numbers rise.
        (rows) => rows.map(({ position }) => position).toSorted()
      )
    },

    page: (topic: string, after: Position, limit: number): Effect.Effect<Page, SqlError> =>
      Effect.map(mending(run<PageColumns>(page, [topic, ...numbersOf(after), `${limit}`])), toPage),

    /** Undefined where the consumer is not registered. */
    consumerPage: (topic: string, consumer: string, limit: number): Effect.Effect<ConsumerPage | undefined, SqlError> =>
      Effect.map(mending(run<ConsumerColumns>(consumerPage, [topic, consumer, `${limit}`])), (rows) => {
        const [row] = rows
        if (row === undefined || row.place === null || row.told === null) return undefined
        return { ...toPage(rows), position: row.place, told: row.told }
      }),

    /** Waits for nobody: false where another one is at it. Until the end of the transaction, or of a silence in it. */
    lock: (topic: string, consumer: string, silenceMillis: number): Effect.Effect<boolean, SqlError> => {
      const key = `coppice/pubsub/${schema}/${JSON.stringify([topic, consumer])}`
      // Where all is one transaction, as in tests, the lease would be that of the test.
      const timeout =
        time === "database"
          ? `case when ${outermost} then set_config('idle_in_transaction_session_timeout', $2, true) end`
          : `$2::text`
      return Effect.map(
        run<{ readonly got: boolean }>(
          `select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as got, ${timeout} as timeout`,
          [key, `${silenceMillis}`]
        ),
        ([row]) => row?.got === true
      )
    },

    /** Registers a consumer that is not. One at the beginning has missed nothing before. */
    register: (topic: string, consumer: string, at: Position, beginning: boolean): Effect.Effect<void, SqlError> =>
      Effect.asVoid(timed(`${place} do nothing`, [topic, consumer, ...numbersOf(at), beginning])),

    /** Moves a consumer from one place to another; false where it is not there any more. */
    advance: (
      topic: string,
      consumer: string,
      from: Position,
      to: Position,
      told: Position
    ): Effect.Effect<boolean, SqlError> =>
      Effect.map(
        timed(
          `update ${schema}.positions
              set xid = $6::text::bigint, id = $7::text::bigint, pruned_xid = $8::text::bigint,
                  pruned_id = $9::text::bigint, updated_at = ${now}
            where topic = $2 and consumer = $3 and xid = $4::text::bigint and id = $5::text::bigint
           returning 1 as moved`,
          [topic, consumer, ...numbersOf(from), ...numbersOf(to), ...numbersOf(told)]
        ),
        (rows) => rows.length === 1
      ),

    /** Puts a consumer somewhere, registered or not. */
    set: (topic: string, consumer: string, at: Position, beginning: boolean): Effect.Effect<void, SqlError> =>
      Effect.asVoid(
        timed(
          `${place} do update
              set xid = excluded.xid, id = excluded.id, pruned_xid = excluded.pruned_xid,
                  pruned_id = excluded.pruned_id, updated_at = excluded.updated_at`,
          [topic, consumer, ...numbersOf(at), beginning]
        )
      ),

    delete: (topic: string, consumer: string): Effect.Effect<boolean, SqlError> =>
      Effect.map(
        run(`delete from ${schema}.positions where topic = $1 and consumer = $2 returning 1 as deleted`, [
          topic,
          consumer
        ]),
        (rows) => rows.length === 1
      ),

    /** The consumers of a topic, or one of them. */
    consumers: (topic: string, consumer: string | null): Effect.Effect<ReadonlyArray<ConsumerRow>, SqlError> =>
      Effect.map(
        run<ConsumerRowColumns>(
          `select p.consumer, ${positionOf("p.xid", "p.id")} as position, ${millis("p.updated_at")} as updated,
                  waiting.unread::float8 as unread, waiting.held::float8 as held, ${millis("waiting.oldest")} as oldest
             from ${origin}, ${schema}.positions p, lateral (
                    select count(*) as unread, count(*) filter (where not ${ready}) as held,
                           min(e.inserted_at) as oldest
                      from ${schema}.events e where e.topic = p.topic and (e.xid, e.id) > (p.xid, p.id)
                  ) waiting
            where p.topic = $1 and p.consumer = coalesce($2, p.consumer)
            order by p.consumer`,
          [topic, consumer]
        ),
        (rows) =>
          rows.map((row) => ({
            consumer: row.consumer,
            position: row.position,
            updatedAt: dateOf(row.updated),
            unread: Number(row.unread),
            held: Number(row.held),
            oldest: row.oldest === null ? undefined : dateOf(row.oldest)
          }))
      ),

    /** Removes so many events that are too old; how many it were. */
    prune: (limit: number): Effect.Effect<number, SqlError> =>
      // A plan that was made while there was nothing would read all of the table, and stay in use when there is much.
      Effect.andThen(
        run(
          `select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
            where ${outermost}`,
          []
        ),
        Effect.map(timed<{ readonly pruned: number }>(prune, [`${limit}`]), ([row]) => Number(row?.pruned ?? 0))
      ).pipe(sql.withTransaction),

    /** Consumers for whose events nobody waited. */
    robbed: run<{ readonly topic: string; readonly consumer: string }>(
      `select p.topic, p.consumer from ${schema}.positions p join ${schema}.pruned m on m.topic = p.topic
        where (m.xid, m.id) > (p.xid, p.id) and (m.xid, m.id) > (p.pruned_xid, p.pruned_id)`,
      []
    ),

    recognize,

    /** Remembers how far transactions have been counted, to know when they begin anew. */
    remember: recognize.pipe(
      Effect.andThen(mending(run<{ readonly moved: boolean }>(`select ${moved} as moved from ${schema}.origin o`, []))),
      Effect.andThen(run(`update ${schema}.origin o set high = ${next} where ${next} > high`, [])),
      Effect.asVoid
    )
  }
}

// --------------------------------------------------------------------------------------------------------------------

const now = "coalesce($1::timestamptz, statement_timestamp())"

/** The number that no transaction has had yet, and the lowest of those in progress. */
const next = "(pg_snapshot_xmax(pg_current_snapshot())::text::bigint + o.lead)"
const horizon = "(pg_snapshot_xmin(pg_current_snapshot())::text::bigint + o.lead)"

/**
 * What a reader may see. Its own transaction's events only where everything happens in one that never ends, as in tests: no
 * reader is in a transaction that has published.
 */
const own = "coalesce(pg_current_xact_id_if_assigned()::text::bigint + o.lead, -1)"
const ready = "(e.xid < o.horizon or e.xid = o.own)"

/** Whether a transaction that has just begun is none within another, which has written. */
const outermost = "pg_current_xact_id_if_assigned() is null"

/** Whether the database has given a number before that it has still to give. */
const moved = `(${next} < o.high)`

/** What tells one server from another, apart from its copies. */
const server = "(select system_identifier::text from pg_control_system())"

const millis = (column: string) => `(extract(epoch from ${column}) * 1000)::float8`

interface PageColumns {
  readonly horizon: Position
  readonly moved: boolean
  readonly pruned: Position | null
  readonly position: Position | null
  readonly ready: boolean | null
  readonly event: string | null
  readonly at: number | null
}

interface ConsumerColumns extends PageColumns {
  readonly place: Position | null
  readonly told: Position | null
}

interface ConsumerRowColumns {
  readonly consumer: string
  readonly position: Position
  readonly updated: number
  readonly unread: number
  readonly held: number
  readonly oldest: number | null
}

const toPage = (columns: ReadonlyArray<PageColumns>): Page => {
  const rows: Array<Row> = []
  let held = false
  for (const { at, event, position, ready } of columns) {
    if (position === null || event === null || at === null) held ||= ready === false
    else rows.push({ position, event, insertedAt: dateOf(at) })
  }
  const [first] = columns
  // The table `origin` has one row, so there is one here.
  return { rows, held, pruned: first?.pruned ?? undefined, horizon: first?.horizon as Position }
}

/** Milliseconds may have parts, and be what the application's codec makes of a number. */
const dateOf = (millis: number): DateTime.Utc => DateTime.makeUnsafe(Math.floor(Number(millis)))
