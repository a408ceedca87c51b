/**
 * The columns that an active job and a finished one have in common, in the order in which they move.
 */

import { now } from "./database.ts"

/** Everything but id, state, and what only one of the two has. */
const shared = [
  "queue",
  "worker",
  "args_version",
  "priority",
  "attempt",
  "max_attempts",
  "rescues",
  "snoozes",
  "lease",
  "leased_by",
  "inserted_at",
  "scheduled_at",
  "attempted_at",
  "cancel_requested_at",
  "partition_key",
  "unique_key",
  "unique_states",
  "unique_until",
  "args",
  "meta",
  "tags",
  "errors",
  "trace",
  "cron_name",
  "cron_at"
] as const

/** The shared columns as a list, each behind an alias. */
export const list = (alias: string): string => shared.map((column) => `${alias}.${column}`).join(", ")

/** The shared columns as the target of an insert. */
export const names: string = shared.join(", ")

/** One bit per state, as `unique_keys.states` has them. */
export const stateBit = {
  scheduled: 1,
  available: 2,
  executing: 4,
  retryable: 8,
  completed: 16,
  cancelled: 32,
  discarded: 64
} as const

/**
 * A part of a timed statement that gives unique keys back: those of the jobs of a common table expression with `id`,
 * `unique_key` and `state` (the state they are in now), unless the key is for that state too.
 *
 * A key that is over stays: whoever wants it takes it, and perhaps just does, in a transaction that takes its time.
 */
export const releaseKeys = (schema: string, moved: string, state = `${moved}.state`): string => `
  delete from ${schema}.unique_keys u
   where u.key = any(array(select unique_key from ${moved} where unique_key is not null))
     and (u.expires_at is null or u.expires_at > ${now})
     and exists (
       select from (select id, unique_key, ${state} as state from ${moved}) m
        where m.unique_key = u.key and m.id = u.job_id and u.states & ${bitOf("m.state")} = 0
     )`

/**
 * That a job `j` is one of those of a common table expression. As an array and not as a join, which a plan that was made while
 * the table was empty would do by walking over all jobs that have come since, once for each of these.
 */
export const among = (some: string): string => `j.id = any(array(select id from ${some}))`

/** The bit of a state expression. */
const bitOf = (state: string): string =>
  `case ${state} ${Object.entries(stateBit)
    .map(([name, bit]) => `when '${name}' then ${bit}`)
    .join(" ")} end`
