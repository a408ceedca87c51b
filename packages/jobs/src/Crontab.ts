/**
 * Jobs by the calendar: which worker runs when, in which time zone, and what happens to instants that were missed.
 *
 * An expression is that of `effect/Cron`: five fields, or six with seconds first; names, ranges, steps and lists; Sunday is
 * 0 or 7. When both day fields are restricted either may match, as in POSIX, and when one of them begins with `*` both
 * must. Or it is one of `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight`, `@hourly`, or `@reboot`,
 * which fires once when the first node starts: not for nodes that start while another one lives.
 *
 * Every instant makes exactly one job, however many nodes there are, and no node leads. The job knows the instant
 * (`job.cron`). What is due is decided by the database's clock; those of the nodes may be wrong.
 *
 * Daylight saving, as Debian's cron has it: an entry whose hour field is `*` follows real time, and fires whenever the
 * clock shows a time that matches, twice in an hour that is repeated. An entry with fixed hours keeps its appointments: in
 * a repeated hour at the first pass, and for times that the clock leaves out once, directly after the gap.
 *
 * Entries come from code (`Jobs.layer({ cron })`, `"static"`) or are created at run time (`Jobs.cron`, `"dynamic"`); a name
 * that the code has belongs to the code. Dynamic entries fire on every node, also where nobody has their worker. A static
 * one fires on the nodes that have it, each with the job that its own code says; three hours after the last such node is
 * gone, the entry can be deleted. Pauses survive restarts.
 *
 * ```ts
 * import { type Crontab, Worker } from "@coppice/jobs"
 *
 * class DigestWorker extends Worker.Service<DigestWorker>()("DigestWorker", { args: {} }) {}
 *
 * export const crontab: ReadonlyArray<Crontab.Entry> = [
 *   { name: "digest", expression: "30 2 * * *", timeZone: "Europe/Berlin", catchUp: "latest", job: DigestWorker.job({}) }
 * ]
 * ```
 */
import { type DateTime, type Duration, Schema } from "effect"
import type { NewJob } from "./NewJob.ts"

/**
 * What to do about instants that nobody was there for: `skip` them, make a job for the `latest`, or one for each, the
 * newest `all` at most (1 to 10,000).
 *
 * Instants that are not older than `tolerance` fire in any case. Not missed are those before an entry was first seen, and
 * those while it was paused. When an expression changes, its instants since the last one that fired count as missed.
 */
export type CatchUp = "skip" | "latest" | { readonly all: number }

/** An entry: a name that is unique in the schema, when it fires, and the job it makes. */
export interface Entry {
  /** 1 to 255 characters. */
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
  /** The last instant that made a job. */
  readonly lastFire: DateTime.Utc | undefined
  /** Undefined while it is paused, for `@reboot`, and for a static entry that no node has in its code any more. */
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
