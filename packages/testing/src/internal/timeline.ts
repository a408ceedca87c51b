/**
 * Letting virtual time pass for jobs: each runs at the instant at which it is due.
 */
import { Jobs, Runner } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { Clock, Context, Duration, Effect, type Fiber, Latch, Layer, Stream } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"

type Counts = Runner.Drained
type Failure = Runner.Endless | SqlError

/** How many jobs run at once, so that one that sleeps does not hold up those that are due with it. */
const concurrency = 10

export class Timeline extends Context.Service<
  Timeline,
  {
    readonly advance: (duration: Duration.Input) => Effect.Effect<Counts, Failure, Pglite.Pglite>
  }
>()("@coppice/testing/Timeline") {}

export const layer: Layer.Layer<Timeline, never, Jobs.Jobs | Runner.Runner | SqlClient> = Layer.effect(
  Timeline,
  Effect.gen(function* () {
    const jobs = yield* Jobs.Jobs
    const runner = yield* Runner.Runner
    const sql = yield* SqlClient
    const scope = yield* Effect.scope
    const changed = Latch.makeUnsafe(false)
    // What other fibers of the test enqueue meanwhile is due as well.
    yield* Effect.forkScoped(
      Stream.runForEach(jobs.events, ({ _tag }) =>
        Effect.sync(() => {
          if (_tag === "Enqueued" || _tag === "Retried") changed.openUnsafe()
        })
      ),
      { startImmediately: true }
    )
    let end = 0
    let counts: Counts = nothing
    let playing: Fiber.Fiber<void, Failure> | undefined

    const play = Effect.gen(function* () {
      while (true) {
        changed.closeUnsafe()
        counts = add(counts, yield* runner.drain({ withRecursion: true, concurrency }))
        const next = yield* runner.stage
        const left = end - (yield* Clock.currentTimeMillis)
        if (left <= 0) return
        const pause = Math.min(left, next === undefined ? left : Duration.toMillis(next))
        yield* Effect.raceFirst(Effect.sleep(pause), changed.await)
      }
    })

    return {
      advance: Effect.fnUntraced(function* (duration) {
        const transaction = yield* Effect.serviceOption(sql.transactionService)
        if (transaction._tag === "Some") return yield* Effect.die(new Error(inTransaction))
        const length = Duration.fromInputUnsafe(duration)
        end = (yield* Clock.currentTimeMillis) + Duration.toMillis(length)
        // A job that still sleeps since the last time goes on, and so does the fiber that waits for it.
        if (playing === undefined || playing.pollUnsafe() !== undefined) {
          playing = yield* Effect.forkIn(play, scope, { startImmediately: true })
        }
        yield* Pglite.advance(length)
        const exit = playing.pollUnsafe()
        if (exit !== undefined) yield* exit
        const passed = counts
        counts = nothing
        return passed
      })
    }
  })
)

const inTransaction =
  "Time cannot advance inside a transaction, which the jobs that run meanwhile could outlive: advance after it, or drain"

const nothing: Counts = {
  completed: 0,
  retryable: 0,
  discarded: 0,
  cancelled: 0,
  snoozed: 0,
  lost: 0,
  unclaimable: 0
}

const add = (a: Counts, b: Counts): Counts => ({
  completed: a.completed + b.completed,
  retryable: a.retryable + b.retryable,
  discarded: a.discarded + b.discarded,
  cancelled: a.cancelled + b.cancelled,
  snoozed: a.snoozed + b.snoozed,
  lost: a.lost + b.lost,
  // These are those that are left, and not a number of attempts.
  unclaimable: b.unclaimable
})
