/** Unique keys of jobs that are removed. */

/**
 * A statement part that deletes the unique keys of the jobs of a common table expression with `id` and `unique_key`.
 *
 * A key that somebody else has locked is over: only such a key is taken from its job. It is not waited for, so that nobody
 * who holds it and waits for something else can deadlock with this.
 */
export const keysOf = (schema: string, jobs: string): string => `
  delete from ${schema}.unique_keys where key = any(array(
    select u.key
      from (select id, unique_key from ${jobs} where unique_key is not null) m
     cross join lateral (
       select key from ${schema}.unique_keys where key = m.unique_key and job_id = m.id for update skip locked
     ) u))`
