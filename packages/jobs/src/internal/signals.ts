/**
 * Telling other nodes, with NOTIFY: after the commit, off the path of whoever enqueues, and many at a time.
 *
 * A notification in the user's transaction would make all commits of the database wait for each other. This one is sent by
 * a fiber of its own; if the process dies in between, the poll finds what it would have told.
 */
import { Cause, Effect, Latch } from "effect"
import type { Signal } from "./client.ts"
import type { Database } from "./database.ts"

/** What one notification says. */
export interface Message {
  /** Who sent it. */
  readonly from: string
  /** Queues that have new jobs; `"*"` is all. */
  readonly jobs?: ReadonlyArray<string>
  /** Whether settings of queues changed, executing jobs are to be cancelled, or the crontab changed. */
  readonly queues?: true
  readonly cancel?: true
  readonly cron?: true
  readonly due?: true
  /** A listener that asks itself whether it hears. */
  readonly echo?: string
}

/** The channel of a queue's schema. */
export const channel = (database: Database): string => `coppice_jobs_${database.name}`

/** Notifications are at most this far apart when there are many. */
const gapMillis = 2

/** NOTIFY takes less than 8000 bytes. A queue's name may have 127 characters, each of which takes six where it is escaped. */
const longestPayload = 7_999

export class Signals {
  private readonly queues = new Set<string>()
  private readonly others = new Set<Exclude<Signal["_tag"], "Jobs">>()
  private readonly waiting = Latch.makeUnsafe(false)
  readonly from: string
  private readonly database: Database
  /** Told at once what is told to others. */
  private readonly here: (signal: Signal) => void

  constructor(database: Database, from: string, here: (signal: Signal) => void = () => {}) {
    this.database = database
    this.from = from
    this.here = here
  }

  /** Takes a signal; it is sent by `run`. */
  add(signal: Signal): void {
    this.here(signal)
    if (signal._tag === "Jobs") this.queues.add(signal.queue)
    else this.others.add(signal._tag)
    this.waiting.openUnsafe()
  }

  /** Sends signals as they come. */
  readonly run: Effect.Effect<never> = Effect.gen({ self: this }, function* () {
    while (true) {
      yield* this.waiting.await
      yield* this.flush
      yield* Effect.sleep(gapMillis)
    }
  })

  /** Sends what waits. Losing it costs others the time to their next poll. */
  readonly flush: Effect.Effect<void> = Effect.suspend(() => {
    this.waiting.closeUnsafe()
    const messages = this.messages()
    this.queues.clear()
    this.others.clear()
    return Effect.forEach(messages, (message) => this.send(message), { discard: true })
  }).pipe(
    // A database that is restarting may answer with a defect. Whatever it is, the poll makes up for it.
    Effect.catchCause((cause) =>
      Cause.hasInterruptsOnly(cause)
        ? Effect.interrupt
        : Effect.logDebug("A notification of new jobs could not be sent; the poll finds them", cause)
    )
  )

  send(message: Message) {
    return this.database.run("select pg_notify($1, $2)", [channel(this.database), JSON.stringify(message)])
  }

  private messages(): ReadonlyArray<Message> {
    const { from, others } = this
    const names = [...this.queues]
    const flags = {
      ...(others.has("Queue") ? { queues: true as const } : {}),
      ...(others.has("Cancel") ? { cancel: true as const } : {}),
      ...(others.has("Cron") ? { cron: true as const } : {}),
      ...(others.has("Due") ? { due: true as const } : {})
    }
    if (names.length === 0 && others.size === 0) return []
    const message = { from, ...flags, jobs: names }
    return [Buffer.byteLength(JSON.stringify(message)) > longestPayload ? { ...message, jobs: ["*"] } : message]
  }
}
