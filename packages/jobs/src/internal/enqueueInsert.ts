/**
 * The statements that insert jobs, and those that look for who has a unique key.
 *
 * A key is a row that others see, so PostgreSQL decides who gets it: whoever comes second waits until the first commits,
 * and gets the key after all if the first rolls back. Keys are inserted in their order, so that batches do not deadlock.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { type Database, now, numbers } from "./database.ts"
import { column, parameters, type Row } from "./enqueueRow.ts"

/** What became of a row: its job's id and whether that is due, or that another job has the key. */
export type Inserted = { readonly id: number; readonly available: boolean } | undefined

/** The job that has a key. */
export interface Holder {
  readonly id: number
  /** Its time is over: whoever comes next may have the key. */
  readonly expired: boolean
}

export interface Statements extends ReturnType<typeof make> {}

export const make = (database: Database) => {
  const { schema } = database
  const one = singleStatement(schema)
  const plain = insertStatement(schema, false)
  const unique = insertStatement(schema, true)
  const holders = `
    select encode(key, 'hex') as key, job_id::float8 as id, coalesce(expires_at <= ${now}, false) as expired
      from ${schema}.unique_keys
     where key in (select decode(k, 'hex') from unnest($2::text::text[]) k)`
  const release = `delete from ${schema}.unique_keys where job_id = any($1::text::bigint[])`
  return {
    /** Inserts rows, whose keys must differ, in one statement. */
    insert: (rows: ReadonlyArray<Row>, trace: string | null): Effect.Effect<ReadonlyArray<Inserted>, SqlError> => {
      const [first] = rows
      if (first !== undefined && rows.length === 1 && first.unique === undefined) {
        return database.timed<NonNullable<Inserted>>(one, single(first, trace))
      }
      const params = parameters(rows, trace)
      const answer = rows.some((row) => row.unique !== undefined)
        ? database.timed<Answer>(unique, [...params, column(rows, (row) => row.unique?.key)])
        : database.timed<Answer>(plain, params)
      return Effect.map(answer, ([{ conflicts, ids, scheduled } = none]) => {
        const result: Array<Inserted> = ids.map((id) => ({ id, available: true }))
        for (const place of scheduled ?? []) {
          const id = ids[place - 1]
          if (id !== undefined) result[place - 1] = { id, available: false }
        }
        for (const place of conflicts ?? []) result[place - 1] = undefined
        return result
      })
    },
    /** Who has these keys, as far as it is committed. */
    holders: (keys: ReadonlyArray<string>): Effect.Effect<ReadonlyMap<string, Holder>, SqlError> =>
      Effect.map(
        database.timed<Holder & { readonly key: string }>(holders, [`{${keys.join(",")}}`]),
        (rows) => new Map(rows.map((row) => [row.key, row]))
      ),
    /** Gives the keys of jobs back. */
    release: (ids: ReadonlyArray<number>): Effect.Effect<void, SqlError> =>
      Effect.asVoid(database.run(release, [numbers(ids)]))
  }
}

/** The ids in the order of the rows, and what is rare: the places, from 1 on, of those that are not available at once. */
interface Answer {
  readonly ids: ReadonlyArray<number>
  readonly scheduled: ReadonlyArray<number> | null
  readonly conflicts: ReadonlyArray<number> | null
}

const none: Answer = { ids: [], scheduled: null, conflicts: null }

/** The parameters of `singleStatement`, from `$2` on. */
const single = ({ args, delay, due, job }: Row, trace: string | null): ReadonlyArray<unknown> => [
  job.queue,
  job.worker,
  job.argsVersion,
  job.priority,
  job.maxAttempts,
  job.tags,
  JSON.stringify(job.meta),
  args,
  due ?? null,
  delay ?? null,
  job.partition ?? null,
  trace
]

/** `timestamptz` and milliseconds, without the loss of `to_timestamp` and without the words of a time zone. */
const millis = "interval '1 millisecond'"

/** One job that is not unique, which is most of them: it takes half the time of a batch of one. */
const singleStatement = (schema: string): string => `
  insert into ${schema}.jobs (
    state, queued_at, inserted_at, scheduled_at, queue, worker, args_version, priority, max_attempts, tags, meta, args,
    partition_key, trace
  )
  select case when t.due <= ${now} then 'available' else 'scheduled' end, ${now}, ${now}, t.due, $2, $3, $4::smallint,
         $5::smallint, $6::int, $7::text[], $8::text::jsonb, $9::text::jsonb, $12, $13
    from (
      select coalesce(
        timestamptz 'epoch' + $10::float8 * ${millis}, ${now} + $11::float8 * ${millis}, ${now}
      ) as due
    ) t
  returning id::float8 as id, state = 'available' as available`

const insertStatement = (schema: string, unique: boolean): string => `
  with input as materialized (
    select nextval((select pg_get_serial_sequence('${schema}.jobs', 'id')::regclass)) as id, r.place, r.args, r.partition,
           p.*, coalesce(timestamptz 'epoch' + r.due * ${millis}, ${now} + r.delay * ${millis}, ${now}) as scheduled_at,
           ${unique ? `decode(r.key, 'hex')` : "null::bytea"} as unique_key, ${now} + p.period * ${millis} as unique_until
      from rows from (
             jsonb_array_elements($2::text::jsonb), unnest($3::text::int[]), unnest($5::text::float8[]),
             unnest($6::text::float8[]), jsonb_array_elements_text($7::text::jsonb)
             ${unique ? ", unnest($9::text::text[])" : ""}
           ) with ordinality as r(args, profile, due, delay, partition ${unique ? ", key" : ""}, place)
      join (
        select (place - 1)::int as profile, queue, worker, args_version, priority, max_attempts, tags, meta,
               unique_states, period
          from rows from (
                 jsonb_to_recordset($4::text::jsonb) as (
                   queue text, worker text, args_version smallint, priority smallint, max_attempts int, tags text[],
                   meta jsonb, unique_states smallint, period float8
                 )
               ) with ordinality as p(
                 queue, worker, args_version, priority, max_attempts, tags, meta, unique_states, period, place
               )
      ) p using (profile)
  ), ${unique ? `${keysPart(schema)},` : ""} inserted as (
    insert into ${schema}.jobs (
      id, state, queued_at, inserted_at, scheduled_at, queue, worker, args_version, priority, max_attempts, tags, meta,
      args, partition_key, unique_key, unique_states, unique_until, trace
    )
    select id, case when scheduled_at <= ${now} then 'available' else 'scheduled' end, ${now}, ${now}, scheduled_at, queue,
           worker, args_version, priority, max_attempts, tags, meta, args, partition, unique_key, unique_states,
           unique_until, $8::text
      from input
     ${unique ? "where unique_key is null or id in (select job_id from obtained)" : ""}
     order by place
  )
  select array_agg(id::float8 order by place) as ids,
         array_agg(place::float8) filter (where scheduled_at > ${now}) as scheduled,
         ${unique ? "array_agg(place::float8) filter (where unique_key is not null and id not in (select job_id from obtained))" : "null::float8[]"} as conflicts
    from input`

/**
 * What has expired goes first, and whoever else wants it waits here, before it has keys of its own that others might wait
 * for. The keys that are left are those that somebody has.
 */
const keysPart = (schema: string): string => `
  due as materialized (
    select key from ${schema}.unique_keys
     where key in (select unique_key from input) and expires_at <= ${now}
     order by key
       for update
  ), expired as (
    delete from ${schema}.unique_keys u using due where u.key = due.key returning u.key
  ), obtained as (
    insert into ${schema}.unique_keys (key, job_id, states, expires_at)
    select unique_key, id, unique_states, unique_until
      from (select * from input where unique_key is not null order by unique_key) i
     where (select count(*) from expired) >= 0
        on conflict (key) do nothing
    returning job_id
  )`
