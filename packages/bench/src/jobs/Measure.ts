/** How jobs are counted and timed, whoever runs them. */
import { Boolean, Effect, type Scope } from "effect"
import { percentile } from "../Bench.ts"
import type { BulkQueue, Implementation, JobQueue, Place, SignalQueue } from "./Implementation.ts"
import * as Producer from "./Producer.ts"

/** Jobs per second of enqueueing `count` of them, `atOnce` in one call. */
export const enqueueRate = (queue: BulkQueue, count: number, atOnce: number): Effect.Effect<number> =>
  Effect.gen(function* () {
    const begin = Producer.now()
    for (let from = 0; from < count; from += atOnce)
      yield* queue.enqueueMany(numbers(from, Math.min(atOnce, count - from)))
    return (count * 1000) / (Producer.now() - begin)
  })

/**
 * Jobs per second from the start of the first of `count` enqueued jobs until the last is settled in the store. `started` hears how many
 * have started.
 */
export const drainRate = (
  queue: JobQueue,
  count: number,
  started: (jobs: number) => void = () => {}
): Effect.Effect<number> =>
  Effect.scoped(
    Effect.gen(function* () {
      let jobs = 0
      let begin = 0
      yield* queue.work(() => {
        if (jobs++ === 0) begin = Producer.now()
        started(jobs)
      })
      yield* until(
        Effect.sync(() => jobs >= count),
        () => `${jobs} of ${count} jobs have started`
      )
      yield* until(Effect.map(queue.busy, Boolean.not), () => "jobs have started that are not settled")
      return (count * 1000) / (Producer.now() - begin)
    })
  )

/** Enqueues `count` jobs in bulk and drains them; jobs per second of the draining. */
export const drain = (queue: JobQueue, count: number): Effect.Effect<number> =>
  Effect.andThen(enqueueRate(queue, count, 10_000), drainRate(queue, count))

/** Has jobs enqueued at these milliseconds, and tells of each how many passed until its handler started. */
export type Follow = (at: ReadonlyArray<number>) => Effect.Effect<ReadonlyArray<number>>

/** Puts a worker in this thread and a producer in another one. */
export const latencies = (
  implementation: Implementation<SignalQueue>,
  place: Place,
  queue: SignalQueue
): Effect.Effect<Follow, never, Scope.Scope> =>
  Effect.gen(function* () {
    const starts: Array<number> = []
    let count = 0
    const producer = yield* Producer.make(implementation, place)
    yield* queue.work((job) => {
      starts[job] = Producer.now()
      count++
    })
    const follow = Effect.fnUntraced(function* (at: ReadonlyArray<number>) {
      const from = count
      const times = yield* producer.enqueue({ from, at })
      yield* until(
        Effect.sync(() => count >= from + at.length),
        () => `${count - from} of ${at.length} jobs have started`
      )
      return times.map((time, index) => (starts[from + index] ?? Number.NaN) - time)
    })
    // Plans are made, code is compiled and timers are warm before anything counts.
    yield* follow(steady(500, 3))
    return follow
  })

/** Jobs so far apart that each finds the queue idle, and not in step with any timer. */
export const spaced = (count: number): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, index) => index * 23 + ((index * 7) % 11))

/** `perSecond` jobs every second, for so many seconds. */
export const steady = (perSecond: number, seconds: number): ReadonlyArray<number> =>
  Array.from({ length: perSecond * seconds }, (_, index) => (index * 1000) / perSecond)

/** Median and 99th percentile. */
export const medianAndTail = (samples: ReadonlyArray<number>): readonly [number, number] => [
  percentile(samples, 50),
  percentile(samples, 99)
]

/** Waits until something is so; a minute without progress is a defect that says how far it came. */
const until = (condition: Effect.Effect<boolean>, progress: () => string): Effect.Effect<void> =>
  Effect.gen(function* () {
    let last = ""
    let deadline = 0
    while (!(yield* condition)) {
      if (progress() !== last) deadline = Producer.now() + 60_000
      last = progress()
      if (Producer.now() > deadline) return yield* Effect.die(new Error(`nothing happens any more: ${last}`))
      yield* Effect.sleep("1 millis")
    }
  })

const numbers = (from: number, count: number): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, index) => from + index)
