/**
 * Taking jobs of a queue whose limits are over all nodes: how many run at once, how many start per period, and both for
 * each of its partitions, which are served in turns.
 *
 * The work is done by `claim_limited`, a function of the schema: see `migrations/limitedClaim.ts` for what it promises.
 * Claims of the same queue wait for each other, about a millisecond each; other queues and other statements do not.
 */
import { Duration, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { type ClaimedRow, type Excluded, returned } from "./claim.ts"
import type { Database } from "./database.ts"

/** What a claim brought. */
export interface Claimed {
  readonly rows: ReadonlyArray<ClaimedRow>
  /**
   * When a claim may bring more although nothing else happens: a rate has kept jobs back, or there are more partitions
   * than one claim looks at. Undefined if there is no more work, or if only the end of a job makes room for it.
   */
  readonly retryIn: Duration.Duration | undefined
}

type Row = (ClaimedRow & { readonly retry_millis: null }) | { readonly id: null; readonly retry_millis: number }

/**
 * Claims at most `demand` jobs, and no more than the queue's limits leave. It fails inside of a transaction that is
 * `repeatable read` or `serializable`. A job that is given back has used up its start all the same.
 */
export const make = (database: Database) => {
  const statement = `
    select ${returned}, c.retry_millis
      from ${database.schema}.claim_limited($2, $3, $4::uuid, $1::timestamptz, $5::text[]) c
     cross join lateral (select (c.job).*) j`
  return (queue: string, demand: number, node: string, excluded: Excluded): Effect.Effect<Claimed, SqlError> =>
    Effect.map(database.timed<Row>(statement, [queue, demand, node, excluded]), (found) => {
      const rows: Array<ClaimedRow> = []
      let retryIn: Duration.Duration | undefined
      for (const row of found) {
        if (row.id === null) retryIn = Duration.millis(Math.ceil(row.retry_millis))
        else rows.push(row)
      }
      return { rows, retryIn }
    })
}
