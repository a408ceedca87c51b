/**
 * The loop of one queue: claims as many jobs as there is room for, when there is reason to believe that there are any.
 */
import { Duration, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { ClaimedRow, Excluded } from "./claim.ts"
import type { Engine } from "./engine.ts"
import type { QueueState } from "./queueState.ts"

/** A claim of any kind; `retryIn` is when a limited one may have more although nothing happens. */
export type Claim = (
  queue: QueueState,
  demand: number,
  node: string,
  excluded: Excluded
) => Effect.Effect<
  { readonly rows: ReadonlyArray<ClaimedRow>; readonly retryIn: Duration.Duration | undefined },
  SqlError
>

/** Between two claims of a limited queue that bring nothing, at most; the poll comes as often. */
const longestVainMillis = 1_000

/** Between two tries while the database does not answer, at most. */
const longestPauseMillis = 2_000

export const run = (engine: Engine, queue: QueueState, claim: Claim): Effect.Effect<never> =>
  Effect.raceFirst(claimLoop(engine, queue, claim), startLoop(engine, queue))

const claimLoop = (engine: Engine, queue: QueueState, claim: Claim): Effect.Effect<never> =>
  Effect.gen(function* () {
    let pauseMillis = 50
    // Claims of a limited queue that were made because it was time, and brought nothing.
    let vain = 0
    let timed = false
    while (true) {
      queue.wake.closeUnsafe()
      const demand = queue.more ? engine.demand(queue) : 0
      if (demand === 0) {
        yield* queue.wake.await
        continue
      }
      // Whatever is told from here on is news to this claim.
      queue.more = false
      const { epoch } = engine
      const began = engine.now()
      engine.claiming++
      queue.claimingSince = engine.monotonic()
      const claimed = yield* claim(queue, demand, engine.id, [...engine.excluded]).pipe(
        // In the same step as the claim's end: a shutdown waits for both.
        Effect.tap(({ rows }) =>
          Effect.sync(() => {
            queue.marks.raise(rows)
            if (rows.length >= demand) queue.more = true
            engine.take(queue, rows, epoch)
          })
        ),
        Effect.result,
        Effect.ensuring(
          Effect.sync(() => {
            engine.claiming--
            queue.claimingSince = Number.POSITIVE_INFINITY
            engine.left.openUnsafe()
          })
        )
      )
      if (claimed._tag === "Failure") {
        // What was told before it is still to be looked for.
        queue.look()
        yield* Effect.logWarning(
          `Queue ${queue.name} could not claim jobs, and tries again in ${pauseMillis} ms`,
          claimed.failure
        )
        yield* Effect.sleep(pauseMillis)
        pauseMillis = Math.min(longestPauseMillis, pauseMillis * 2)
        continue
      }
      pauseMillis = 50
      const { retryIn, rows } = claimed.success
      queue.measure(began, engine.now())
      vain = timed && rows.length === 0 ? vain + 1 : 0
      timed = false
      if (retryIn !== undefined && !queue.more) {
        // With more partitions than a claim looks at, all of them at their limits, it asks for one claim after the other.
        const millis = Math.max(Duration.toMillis(retryIn), Math.min(longestVainMillis, 2 ** vain))
        yield* Effect.timeoutOrElse(queue.wake.await, {
          duration: millis,
          orElse: () =>
            Effect.sync(() => {
              timed = true
            })
        })
        queue.look()
      }
    }
  })

const startLoop = (engine: Engine, queue: QueueState): Effect.Effect<never> =>
  Effect.gen(function* () {
    while (true) {
      yield* queue.ready.await
      queue.ready.closeUnsafe()
      yield* Effect.yieldNow
      engine.pump(queue)
    }
  })
