/**
 * Jobs by the calendar: which worker runs when, in which time zone, and what happens to instants that were missed.
 *
 * An expression is that of `effect/Cron` (five fields, or six with seconds first; names, ranges, steps and lists; when both
 * day fields are restricted either may match, as in POSIX), one of `@yearly`, `@monthly`, `@weekly`, `@daily`, `@hourly`,
 * or `@reboot`. Every instant makes exactly one job, however many nodes there are, and no node leads.
 *
 * Daylight saving: an entry whose hour field is a wildcard follows real time, through a repeated hour as through any other.
 * An entry with fixed hours runs once in a repeated hour, at its first pass, and directly after a skipped hour.
 */
import { type DateTime, type Duration, Schema } from "effect"
import type { NewJob } from "./NewJob.ts"

/**
 * What to do about instants that nobody was there for: `skip` them, make one job for the `latest`, or one for each
 * (`all`), the newest `max` at most.
 */
export type CatchUp = "skip" | "latest" | { readonly all: number }

/** An entry: a name that is unique in the schema, when it fires, and the job it makes. */
export interface Entry {
  readonly name: string
  readonly expression: string
  /** What it enqueues: `DigestWorker.job({})`. Its schedule and uniqueness are not used. */
  readonly job: NewJob
  /** An IANA name such as `"Europe/Berlin"`. Defaults to `"UTC"`. */
  readonly timeZone?: string | undefined
  /** Defaults to `"skip"`. */
  readonly catchUp?: CatchUp | undefined
}

/** An entry as the database knows it. */
export interface EntryRecord {
  readonly name: string
  readonly source: "static" | "dynamic"
  readonly expression: string
  readonly timeZone: string
  readonly worker: string
  readonly queue: string
  readonly args: Schema.Json
  readonly catchUp: CatchUp
  readonly paused: boolean
  readonly lastFire: DateTime.Utc | undefined
  readonly nextFire: DateTime.Utc | undefined
}

/** How long after its instant an entry still fires although `catchUp` is `skip`. */
export const tolerance: Duration.Input = "1 minute"

/** An entry that cannot fire as it is. Nothing was changed. */
export class InvalidEntry extends Schema.TaggedError<InvalidEntry>("@coppice/jobs/InvalidEntry")("InvalidEntry", {
  name: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `The cron entry ${JSON.stringify(this.name)} ${this.problem}`
  }
}

/** No entry of that name exists, or it is static where a dynamic one is needed. */
export class EntryNotFound extends Schema.TaggedError<EntryNotFound>("@coppice/jobs/EntryNotFound")("EntryNotFound", {
  name: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `The cron entry ${JSON.stringify(this.name)} ${this.problem}`
  }
}
