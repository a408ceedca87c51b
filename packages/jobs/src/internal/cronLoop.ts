/**
 * Fires the crontab: the loop that every node runs, beside the others and without a leader.
 *
 * A round reads the crontab together with the time, fires what is due by that time, and sleeps until the next instant. The
 * time is the database's own: the clock of the node only measures how long a round took and how long to sleep, so that a
 * wrong clock makes nothing early. What a round cannot do stays due, because `last_fire` has not moved.
 */
import { Clock, DateTime, Duration, Effect, type Latch, Result } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Client } from "./client.ts"
import type { CatchUp } from "../Crontab.ts"
import { decodeCatchUp, type TimingRow, type Prepared } from "./cronEntry.ts"
import { make, tell } from "./cronFiring.ts"
import { type Calendar, due, parse, type Schedule } from "./cronSchedule.ts"
import type { Lease } from "./nodes.ts"

export interface Options {
  /** On the queue's own connections. */
  readonly client: Client
  /** What the code says, checked by `prepareAll`. */
  readonly entries: ReadonlyArray<Prepared>
  /**
   * This node, by the id of its row in `nodes`, which is empty until it has one; if it comes back under another, that is no
   * new start. Undefined where nothing starts, and no `@reboot` fires.
   */
  readonly node: { readonly id: string } | undefined
  /** What follows from the time to live: after how long without a heartbeat a node counts as dead. */
  readonly lease: Lease
  /** Opened when the crontab was changed. */
  readonly changed: Latch.Latch
}

/**
 * Never ends, and goes on whatever the database does. Idle, it costs one statement a minute; firing costs one per entry.
 * What it knows belongs to this effect: run again after a crash, it goes on where it was.
 */
export const run = (options: Options): Effect.Effect<never> => {
  const round = makeRound(options)
  const changed = Effect.as(options.changed.await, true)
  return Effect.forever(
    Effect.flatMap(round, (millis) => Effect.raceFirst(Effect.sleep(Duration.millis(millis)), changed))
  )
}

/** Signals are quicker; this is for those that were lost. */
const reloadMillis = 60_000
/** On virtual time whoever changes something is in this process, and no signal is lost. */
const virtualReloadMillis = 3_600_000

const firstBackoffMillis = 500
const maxBackoffMillis = 15_000

/** When to look again after somebody else had an entry: another node, which is done by then, or a long transaction. */
const firstLookMillis = 20
const maxLookMillis = 1_000

/** An entry with instants, as it was read. */
interface Watched {
  readonly row: TimingRow
  readonly calendar: Calendar
  readonly catchUp: CatchUp
  /** Until when it is settled, and its first instant after that. */
  last: number
  next: number
}

/** One round, which answers for how many milliseconds to sleep. */
export const makeRound = ({ changed, client, entries, lease, node }: Options): Effect.Effect<number> => {
  const statements = make(client.database)
  const own = new Map(entries.map((entry) => [entry.name, entry]))
  const names = [...own.keys()]
  const reload = client.database.time === "clock" ? virtualReloadMillis : reloadMillis
  const readSchedules = makeSchedules()
  // The first one that it has is that of its start.
  let id = ""
  let watched: ReadonlyArray<Watched> = []
  let reboots: ReadonlyArray<TimingRow> = []
  let registered = false
  /** Whether it is still to be found out if the start of this node was the start of the cluster. */
  let starting = node !== undefined
  /** When the crontab was read: by the database's clock, and by the monotonic one here. */
  let loaded = { at: Number.NEGATIVE_INFINITY, nanos: 0n }
  let stale = true
  let missed = false
  let failures = 0
  let misses = 0

  /** The database's time, as far as it can be known without asking. */
  const estimate = Effect.map(Clock.monotonicTimeNanos, (nanos) => loaded.at + Number(nanos - loaded.nanos) / 1e6)

  const load = Effect.gen(function* () {
    changed.closeUnsafe()
    if (!registered) yield* Effect.forEach(own.values(), statements.register, { discard: true })
    const { rows, time } = yield* statements.load(names)
    loaded = { at: time, nanos: yield* Clock.monotonicTimeNanos }
    // Somebody may have removed a row by hand.
    registered = names.every((name) => rows.some((row) => row.name === name))
    const running = rows.filter((row) => !row.paused)
    const schedules = yield* readSchedules(running.filter((row) => !own.has(row.name)))
    const scheduled = running.map((row) => ({ row, schedule: own.get(row.name)?.schedule ?? schedules.get(row.name) }))
    reboots = scheduled.flatMap(({ row, schedule }) => (schedule?._tag === "Reboot" ? [row] : []))
    watched = scheduled.flatMap(({ row, schedule }) => {
      if (schedule?._tag !== "Calendar") return []
      const last = row.last_fire === null ? loaded.at : DateTime.toEpochMillis(DateTime.makeUnsafe(row.last_fire))
      const catchUp = own.get(row.name)?.catchUp ?? decodeCatchUp(row.catch_up)
      return [{ row, calendar: schedule, catchUp, last, next: schedule.next(last) }]
    })
    stale = !registered
  })

  /** Fires what is due of an entry. The database decides, by its own time and by what it has of the entry now. */
  const fire = Effect.fnUntraced(function* (entry: Watched, now: number) {
    const instants = due(entry.calendar, entry.last, now, entry.catchUp)
    if (instants.length > 0) {
      const fired = yield* statements.fire(entry.row, own.get(entry.row.name)?.spec, instants)
      yield* tell(client, fired)
      // Somebody else was first, or has it just now, or the entry is not what it was.
      if (fired.length < instants.length) missed = true
    }
    entry.last = Math.max(entry.last, instants.at(-1) ?? 0)
    entry.next = entry.calendar.next(now)
  })

  /** Fires what fires when the cluster starts; answers whether that is still to be found out. */
  const boot = Effect.fnUntraced(function* (row: TimingRow) {
    const { fired, verdict } = yield* statements.reboot(row, own.get(row.name)?.spec, id, lease.expiry)
    yield* tell(client, fired)
    return verdict === "wait"
  })

  const attempt = Effect.gen(function* () {
    if (stale || changed.isOpen() || (yield* estimate) >= loaded.at + reload) yield* load
    const now = yield* estimate
    let next = loaded.at + reload
    let failed = false
    missed = false
    for (const entry of watched) {
      const broken = entry.next <= now && (yield* isolate(entry.row, fire(entry, now)))
      if (broken) failed = true
      else next = Math.min(next, entry.next)
    }
    if (starting) {
      id ||= node?.id ?? ""
      let waiting = id === "" && reboots.length > 0
      for (const row of id === "" ? [] : reboots) {
        const outcome = Effect.map(boot(row), (wait) => {
          waiting ||= wait
        })
        failed = (yield* isolate(row, outcome)) || failed
      }
      starting = waiting || failed
      if (waiting) next = Math.min(next, now + Duration.toMillis(lease.expiry) / 16)
    }
    failures = failed ? failures + 1 : 0
    misses = missed ? misses + 1 : 0
    if (missed) next = Math.min(next, now + Math.min(firstLookMillis * 2 ** (misses - 1), maxLookMillis))
    if (!registered) next = now
    stale ||= failed || missed
    return Math.max(0, next - (yield* estimate))
  })

  return attempt.pipe(
    Effect.catch((error) => {
      failures++
      stale = true
      const message = "The crontab cannot be read or fired now; no instant is lost, and it is tried again"
      return Effect.as(Effect.logWarning(message, error), reload)
    }),
    Effect.map((millis) =>
      failures === 0 ? millis : Math.min(millis, firstBackoffMillis * 2 ** (failures - 1), maxBackoffMillis)
    )
  )
}

/** Answers whether it failed. An entry that cannot fire keeps no other from firing; what passes by itself is the round's. */
const isolate = <R>(row: TimingRow, effect: Effect.Effect<void, SqlError, R>): Effect.Effect<boolean, SqlError, R> =>
  Effect.as(effect, false).pipe(
    Effect.catch((error) => {
      if (error.isRetryable) return Effect.fail(error)
      const message = `The cron entry ${JSON.stringify(row.name)} cannot fire now, and is tried again`
      return Effect.as(Effect.logError(message, error), true)
    })
  )

/** The schedules of rows, by name; each is read once, and each that cannot be read is told of once. */
const makeSchedules = () => {
  let known = new Map<string, Schedule | undefined>()
  return Effect.fnUntraced(function* (rows: ReadonlyArray<TimingRow>) {
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
