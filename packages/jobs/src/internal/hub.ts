/**
 * Where events go: to those who listen, and into metrics.
 *
 * Nobody who listens can hold the queue up: each has a buffer of its own, and loses the oldest events when it is full.
 */
import { type Context, Effect, Metric, Queue, Stream } from "effect"
import type { JobEvent } from "../JobEvent.ts"

/** How many events a subscriber may be behind. */
const capacity = 4_096

const total = Metric.counter("coppice_jobs_total", {
  description: "What happened to jobs, by queue, worker and event",
  incremental: true
})
const duration = Metric.histogram("coppice_jobs_duration_ms", {
  description: "How long handlers ran",
  boundaries: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000]
})
const waited = Metric.histogram("coppice_jobs_waited_ms", {
  description: "How long jobs had been due when their handler began",
  boundaries: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000, 600_000, 3_600_000]
})

/** The tags of events that are about a job. */
type JobTag = Extract<JobEvent, { readonly queue: string; readonly worker: string }>["_tag"]

export class Hub {
  private readonly subscribers = new Set<Queue.Queue<JobEvent>>()
  private attentive = 0
  private readonly metrics = new Map<string, Metric.Metric<number, unknown>>()
  private readonly context: Context.Context<never>

  constructor(context: Context.Context<never>) {
    this.context = context
  }

  /** Whether anybody wants to know of everything: if not, events of what goes well need not be made. */
  get active(): boolean {
    return this.attentive > 0
  }

  /** All events. */
  readonly stream: Stream.Stream<JobEvent> = this.subscribe(true)
  /** Those that are made in any case: what somebody should look at is among them. */
  readonly problems: Stream.Stream<JobEvent> = this.subscribe(false)

  private subscribe(attentive: boolean): Stream.Stream<JobEvent> {
    return Stream.unwrap(
      Effect.gen({ self: this }, function* () {
        const queue = yield* Effect.acquireRelease(Queue.sliding<JobEvent>(capacity), (queue) => {
          this.subscribers.delete(queue)
          if (attentive) this.attentive--
          return Queue.shutdown(queue)
        })
        this.subscribers.add(queue)
        if (attentive) this.attentive++
        return Stream.fromQueue(queue)
      })
    )
  }

  /** Counts and publishes. */
  emit(events: ReadonlyArray<JobEvent>): void {
    // Many at a time are mostly alike: they are counted together.
    let first: Extract<JobEvent, { readonly worker: string }> | undefined
    let n = 0
    for (const event of events) {
      if (!("worker" in event)) continue
      if (first !== undefined && isAlike(event, first)) {
        n++
        continue
      }
      if (first !== undefined) this.count(first._tag, first.queue, first.worker, n)
      first = event
      n = 1
    }
    if (first !== undefined) this.count(first._tag, first.queue, first.worker, n)
    this.publish(events)
  }

  publish(events: ReadonlyArray<JobEvent>): void {
    for (const queue of this.subscribers) for (const event of events) Queue.offerUnsafe(queue, event)
  }

  count(event: JobTag, queue: string, worker: string, n: number): void {
    this.metric(total, event, queue, worker).updateUnsafe(n, this.context)
  }

  /** Observes how long a handler ran, and how long its job had waited before. */
  observer(queue: string, worker: string): (durationMillis: number, waitedMillis: number) => void {
    const ran = this.metric(duration, "duration", queue, worker)
    const stood = this.metric(waited, "waited", queue, worker)
    return (durationMillis, waitedMillis) => {
      ran.updateUnsafe(durationMillis, this.context)
      stood.updateUnsafe(waitedMillis, this.context)
    }
  }

  private metric(base: Metric.Metric<number, unknown>, event: string, queue: string, worker: string) {
    const key = `${event} ${queue} ${worker}`
    const known = this.metrics.get(key)
    if (known !== undefined) return known
    const made = Metric.withAttributes(base, base === total ? { event, queue, worker } : { queue, worker })
    this.metrics.set(key, made)
    return made
  }
}

type AboutJob = Pick<Extract<JobEvent, { readonly worker: string }>, "_tag" | "queue" | "worker">

const isAlike = (a: AboutJob, b: AboutJob): boolean => a._tag === b._tag && a.worker === b.worker && a.queue === b.queue
