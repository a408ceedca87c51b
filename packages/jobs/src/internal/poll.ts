/**
 * The loop that is always on: once a second, and whenever a scheduled job is due before that, it makes due jobs available
 * and looks what this node's queues have. Notifications only make it quicker.
 */
import { Duration, Effect, type Latch } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { Engine } from "./engine.ts"
import * as Stage from "./stage.ts"

/** What was said of a queue at run time, as far as this node is concerned. */
interface Settings {
  readonly paused: boolean
  readonly limit: number
  readonly limited: boolean
}

export interface Options {
  readonly engine: Engine
  readonly interval: Duration.Duration
  readonly stage: ReturnType<typeof Stage.make>
  readonly settings: Effect.Effect<ReadonlyMap<string, Settings>, SqlError>
  /** Tells others that a queue has jobs. */
  readonly available: (queue: string) => void
  /** Opened when there is reason to poll at once. */
  readonly poke: Latch.Latch
  /** Whether settings may have changed. They are read then, and every few polls. */
  readonly stale: { settings: boolean }
}

/** A due job is not polled for more often than this. */
const shortestPauseMillis = 10

/** Every so many polls settings are read although nobody told of a change. */
const settingsRounds = 5

/**
 * Every so many polls, queues with jobs that this node must leave to others are looked at from their beginning. There may be
 * a million of those, and each look walks over all of them.
 */
const thoroughRounds = 30

const longestPauseMillis = 5_000

/** What was claimed ahead and has not begun after this goes back to where other nodes find it. */
const longestAheadMillis = 500

export const run = (options: Options): Effect.Effect<never> =>
  Effect.gen(function* () {
    const { engine, poke, stale } = options
    const interval = Duration.toMillis(options.interval)
    let pauseMillis = 100
    let round = 0
    while (true) {
      const polled = yield* Effect.result(
        Effect.gen(function* () {
          poke.closeUnsafe()
          round++
          if (stale.settings || round % settingsRounds === 0) {
            stale.settings = false
            apply(engine, yield* options.settings)
          }
          return yield* poll(options, round % thoroughRounds === 0)
        })
      )
      if (polled._tag === "Failure") {
        stale.settings = true
        yield* Effect.logWarning(`Queues could not be polled; trying again in ${pauseMillis} ms`, polled.failure)
        yield* Effect.sleep(pauseMillis)
        pauseMillis = Math.min(longestPauseMillis, pauseMillis * 2)
        continue
      }
      pauseMillis = 100
      engine.handBack(longestAheadMillis)
      yield* Effect.timeoutOrElse(poke.await, {
        duration: Math.min(interval, Math.max(shortestPauseMillis, polled.success ?? interval)),
        orElse: () => Effect.void
      })
    }
  })

/** Answers how long until the next scheduled job is due. */
const poll = Effect.fnUntraced(function* ({ available, engine, stage }: Options, thorough: boolean) {
  while (true) {
    const queues = [...engine.queues.values()].filter(({ excludes }) => thorough || !excludes)
    const { heads, nextDueMillis, staged } = yield* stage(queues.map(({ name }) => name))
    // Their heads are what they must leave alone. What came lately is found without looking there.
    for (const queue of engine.queues.values()) if (queue.excludes) queue.look()
    let count = 0
    for (const [queue, n] of Object.entries(staged)) {
      count += n
      engine.queues.get(queue)?.look()
      available(queue)
    }
    if (count > 0) engine.hub.emit([{ _tag: "Staged", count }])
    for (const { id, priority, queue: name, queuedAt } of heads) {
      const queue = engine.queues.get(name)
      queue?.marks.lower(priority, queuedAt, id)
      queue?.look()
    }
    if (count < Stage.batch) return nextDueMillis
  }
})

/** Follows what was said at run time. */
export const apply = (engine: Engine, settings: ReadonlyMap<string, Settings>): void => {
  for (const [name, { limit, limited, paused }] of settings) {
    const queue = engine.queues.get(name)
    if (queue === undefined) continue
    queue.paused = paused
    queue.limit = limit
    queue.limited = limited
    engine.pump(queue)
    queue.look()
  }
}
