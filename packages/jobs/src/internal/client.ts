/**
 * What every operation of the service stands on: the database, and a way to tell others.
 */
import type { Effect } from "effect"
import type { JobEvent } from "../JobEvent.ts"
import type { Database } from "./database.ts"

/** What nodes tell each other, to be quicker than the next poll. Losing one costs no more than that. */
export type Signal =
  /** Jobs became available. */
  | { readonly _tag: "Jobs"; readonly queue: string }
  /** A job was scheduled. Only told on virtual time, where nobody polls; see `TimeSource`. */
  | { readonly _tag: "Due" }
  /** Settings of a queue changed. */
  | { readonly _tag: "Queue"; readonly queue: string }
  /** Executing jobs are to be cancelled. */
  | { readonly _tag: "Cancel" }
  /** The crontab changed. */
  | { readonly _tag: "Cron" }

export interface Client {
  /** On the user's client: joins the transaction that is open. */
  readonly database: Database
  /** Sends a signal after the commit of the transaction that is open, or now; coalesced. */
  readonly signal: (signal: Signal) => Effect.Effect<void>
  /** Publishes events after the commit of the transaction that is open, or now. */
  readonly emit: (events: ReadonlyArray<JobEvent>) => Effect.Effect<void>
}
