/**
 * Enqueues jobs from a thread of its own, as the web server of an application would: it shares neither memory nor event loop with the
 * workers that it feeds.
 */
import { Effect, type Scope } from "effect"
import { Worker } from "node:worker_threads"
import type { Implementation, Place, SignalQueue } from "./Implementation.ts"

/** When jobs are to be enqueued, in milliseconds from now; the first carries the number `from`. */
export interface Plan {
  readonly from: number
  readonly at: ReadonlyArray<number>
}

/** What the thread is told when it starts. */
export interface Start {
  readonly implementation: string
  readonly place: Place
}

export interface Producer {
  /** Enqueues as planned; the times, in milliseconds of `now`, at which each job was handed over. */
  readonly enqueue: (plan: Plan) => Effect.Effect<ReadonlyArray<number>>
}

/** Milliseconds on the clock that all threads share. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6

export const make = (
  implementation: Implementation<SignalQueue>,
  place: Place
): Effect.Effect<Producer, never, Scope.Scope> =>
  Effect.gen(function* () {
    const workerData: Start = { implementation: implementation.name, place }
    const thread = yield* Effect.acquireRelease(
      Effect.sync(() => new Worker(new URL("./producerThread.ts", import.meta.url), { workerData })),
      (thread) => Effect.promise(() => thread.terminate())
    )
    const reply = Effect.callback<ReadonlyArray<number>>((resume) => {
      thread.once("message", (times: ReadonlyArray<number>) => resume(Effect.succeed(times)))
      thread.once("error", (error) => resume(Effect.die(error)))
    })
    yield* reply
    return {
      enqueue: (plan) =>
        Effect.suspend(() => {
          // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread is no window, it has no origin
          thread.postMessage(plan)
          return reply
        })
    }
  })
