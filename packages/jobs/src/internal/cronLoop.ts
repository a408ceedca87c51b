/**
 * Fires the crontab: the loop that every node runs, beside the others and without a leader.
 *
 * A round reads the crontab together with the time, fires what is due by that time, and sleeps until the next instant. The
 * time is the database's own: the clock of the node only measures how long a round took and how long to sleep, so that a
 * wrong clock makes nothing early. What a round cannot do stays due, because `last_fire` has not moved.
 */
import { Clock, Duration, Effect, type Latch, Result } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Client } from "./client.ts"
import { decodeCatchUp, type EntryRow, type Prepared } from "./cronEntry.ts"
import { make, tell } from "./cronFiring.ts"
import { due, parse, type Schedule } from "./cronSchedule.ts"
import type { Lease } from "./nodes.ts"

export interface Options {
  /** On the queue's own connections. */
  readonly client: Client
  /** What the code says, checked by `prepareAll`. */
  readonly entries: ReadonlyArray<Prepared>
  /** This node, by the id that its row in `nodes` has or will have; if it comes back under another, that is no new start. */
  readonly node: { readonly id: string }
  /** What follows from the time to live: after how long without a heartbeat a node counts as dead. */
  readonly lease: Lease
  /** Opened when the crontab was changed. */
  readonly changed: Latch.Latch
}

/**
 * Never ends, and goes on whatever the database does. Idle, it costs one statement a minute. What it knows belongs to this
 * effect: run again after a crash, it goes on where it was.
 */
export const run = (options: Options): Effect.Effect<never> =>
  Effect.forever(
    Effect.flatMap(makeRound(options), (millis) =>
      Effect.raceFirst(Effect.sleep(Duration.millis(millis)), options.changed.await)
    )
  )

/** Signals are quicker; this is for those that were lost. */
const reloadMillis = 60_000
/** On virtual time whoever changes something is in this process, and no signal is lost. */
const virtualReloadMillis = 3_600_000

const firstBackoffMillis = 500
const maxBackoffMillis = 15_000

/** One round, which answers for how many milliseconds to sleep. */
const makeRound = ({ changed, client, entries, lease, node }: Options): Effect.Effect<number> => {
  const statements = make(client.database)
  const own = new Map(entries.map((entry) => [entry.name, entry]))
  const names = [...own.keys()]
  const reload = client.database.time === "clock" ? virtualReloadMillis : reloadMillis
  const readSchedules = makeSchedules()
  const { id } = node
  let registered = false
  // Whether it is still to be found out if the start of this node was the start of the cluster.
  let starting = true
  let failures = 0

  const reboot = Effect.fnUntraced(function* (row: EntryRow) {
    const { fired, verdict } = yield* statements.reboot(row, own.get(row.name)?.spec, id, lease.expiry)
    yield* tell(client, fired)
    return verdict === "wait"
  })

  const fire = Effect.fnUntraced(function* (row: EntryRow, instants: ReadonlyArray<number>) {
    yield* tell(client, yield* statements.fire(row, own.get(row.name)?.spec, instants))
    return true
  })

  const attempt = Effect.gen(function* () {
    changed.closeUnsafe()
    if (!registered) yield* Effect.forEach(own.values(), statements.register, { discard: true })
    const { rows, time } = yield* statements.load(names)
    const loadedAt = yield* Clock.monotonicTimeNanos
    const now = time.getTime()
    // Somebody may have removed a row by hand.
    registered = names.every((name) => rows.some((row) => row.name === name))
    let next = registered ? now + reload : now
    let waiting = false
    let failed = false
    const schedules = yield* readSchedules(rows.filter((row) => !own.has(row.name)))
    for (const row of rows) {
      const mine = own.get(row.name)
      const schedule = mine?.schedule ?? schedules.get(row.name)
      if (row.paused || schedule === undefined) continue
      const isolated = isolate(row.name)
      if (schedule._tag === "Calendar") {
        const last = row.last_fire?.getTime() ?? now
        const instants = due(schedule, last, now, mine?.catchUp ?? decodeCatchUp(row.catch_up))
        if (instants.length > 0 && (yield* isolated(fire(row, instants))) === undefined) failed = true
        next = Math.min(next, schedule.next(now))
      } else if (starting) {
        const wait = yield* isolated(reboot(row))
        waiting ||= wait === true
        failed ||= wait === undefined
      }
    }
    starting = waiting || (starting && failed)
    failures = failed ? failures + 1 : 0
    if (waiting) next = Math.min(next, now + Duration.toMillis(lease.expiry) / 16)
    const elapsed = Number((yield* Clock.monotonicTimeNanos) - loadedAt) / 1e6
    return Math.max(0, next - now - elapsed)
  })

  return attempt.pipe(
    Effect.catch((error) => {
      failures++
      return Effect.as(
        Effect.logWarning("The crontab cannot be read now; no instant is lost, and it is tried again", error),
        reload
      )
    }),
    Effect.map((millis) =>
      failures === 0 ? millis : Math.min(millis, firstBackoffMillis * 2 ** (failures - 1), maxBackoffMillis)
    )
  )
}

/** An entry that cannot fire keeps no other from firing; what passes by itself is the round's to try again. */
const isolate =
  (name: string) =>
  <A, R>(effect: Effect.Effect<A, SqlError, R>): Effect.Effect<A | undefined, SqlError, R> =>
    Effect.catch(effect, (error) =>
      error.isRetryable
        ? Effect.fail(error)
        : Effect.as(
            Effect.logError(`The cron entry ${JSON.stringify(name)} cannot fire now, and is tried again`, error),
            undefined
          )
    )

/** The schedules of rows, by name; each is read once, and each that cannot be read is told of once. */
const makeSchedules = () => {
  let known = new Map<string, Schedule | undefined>()
  return Effect.fnUntraced(function* (rows: ReadonlyArray<EntryRow>) {
    const used: typeof known = new Map()
    const byName = new Map<string, Schedule>()
    for (const { expression, name, time_zone } of rows) {
      const key = JSON.stringify([name, expression, time_zone])
      let schedule = known.get(key)
      if (schedule === undefined && !known.has(key)) {
        const parsed = parse(name, expression, time_zone)
        if (Result.isSuccess(parsed)) schedule = parsed.success
        else yield* Effect.logError("A cron entry does not fire on this node", parsed.failure)
      }
      used.set(key, schedule)
      if (schedule !== undefined) byName.set(name, schedule)
    }
    known = used
    return byName
  })
}
