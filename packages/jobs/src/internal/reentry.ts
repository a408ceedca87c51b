/** Making jobs available again, also those that had finished. */
import { list, names, releaseKeys, stateBit } from "./columns.ts"
import { type Database, now } from "./database.ts"

/** A job that was to be retried. */
export interface Retried {
  readonly id: number
  readonly worker: string
  readonly queue: string
  /** Not if another job has its unique key. */
  readonly retried: boolean
}

/** A condition on jobs `j` of the history, besides their ids: leaves out partitions in which no job of a list can be. */
export const within = (jobs: string): string => `
  and j.finished_at >= (select min(finished_at) from ${jobs}) and j.finished_at <= (select max(finished_at) from ${jobs})`

/** The statements, for a condition on jobs `j`; `$2` is the id after which they begin. */
export const make = ({ schema }: Database, batch: number) => ({
  /** Of jobs that are not finished. Their keys, if they still have them, they keep. */
  waiting: (condition: string): string => `
    with x as materialized (
      select j.id, j.unique_key from ${schema}.jobs j
       where j.id > $2::text::bigint and ${condition}
       order by j.id limit ${batch}
         for no key update
    ), keys as (${releaseKeys(schema, "x", "'available'")}
    ), r as (
      update ${schema}.jobs j
         set state = 'available', queued_at = ${now}, scheduled_at = ${now}, cancel_requested_at = null, cancel_reason = null
       where j.id = any(array(select id from x))
      returning j.id, j.worker, j.queue
    )
    select r.id::float8 as id, r.worker, r.queue, true as retried from r order by r.id`,

  /**
   * Of finished jobs. A key that another job has is left to that, and the job where it is; of two jobs with one key the
   * younger comes back. Only keys that are over are taken from others, and existing ones are not locked, so that this
   * waits for nobody who waits for it.
   */
  finished: (condition: string): string => `
    with x as materialized (
      select j.id, j.finished_at, j.worker, j.queue, j.unique_key, j.unique_states, j.unique_until,
             j.unique_key is not null and coalesce(j.unique_states, 0) & ${stateBit.available} <> 0
               and (j.unique_until is null or j.unique_until > ${now}) as keyed
        from ${schema}.jobs_history j
       where j.id > $2::text::bigint and ${condition}
       order by j.id limit ${batch}
         for update
    ), wanted as materialized (
      select distinct on (unique_key) id, unique_key, unique_states, unique_until
        from x where keyed order by unique_key, id desc
    ), own as materialized (
      select u.job_id from ${schema}.unique_keys u join wanted w on u.key = w.unique_key and u.job_id = w.id
    ), over as (
      delete from ${schema}.unique_keys u
       where u.key = any(array(
         select o.key from ${schema}.unique_keys o join wanted w on o.key = w.unique_key and o.job_id <> w.id
          where o.expires_at <= ${now} order by o.key for update of o skip locked))
      returning u.key
    ), got as (
      insert into ${schema}.unique_keys (key, job_id, states, expires_at)
      select w.unique_key, w.id, w.unique_states, w.unique_until
        from wanted w
       where (select count(*) from over) >= 0
       order by w.unique_key
      on conflict (key) do nothing
      returning job_id
    ), moving as materialized (
      select id, finished_at, unique_key from x
       where not keyed or id in (select job_id from own union all select job_id from got)
    ), released as (${releaseKeys(schema, "moving", "'available'")}
    ), d as (
      delete from ${schema}.jobs_history j where j.id = any(array(select id from moving)) ${within("moving")}
      returning j.*
    ), back as (
      insert into ${schema}.jobs (id, state, queued_at, ${names})
      select d.id, 'available', ${now},
             ${list("d")
               .replace("d.max_attempts", "greatest(d.max_attempts, d.attempt + 1)")
               .replace("d.leased_by", "null")
               .replace("d.cancel_requested_at", "null")
               .replace("d.scheduled_at", now)}
        from d
    )
    select x.id::float8 as id, x.worker, x.queue, x.id in (select id from moving) as retried from x order by x.id`
})
