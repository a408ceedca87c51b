/**
 * What the loops of a node share: its identity, its queues, the jobs it has, and what is to be written of them.
 *
 * Nothing here waits and nothing here asks the database; the loops do. So a loop that crashes and comes back finds all as
 * it was, and takes no running job down.
 */
import { Clock, Context, Duration, Effect, Exit, type Fiber, Latch } from "effect"
import type { JobEvent } from "../JobEvent.ts"
import type { JobId } from "../Job.ts"
import type * as Queue from "../Queue.ts"
import type { Running as Worker } from "../Worker.ts"
import * as Attempt from "./attempt.ts"
import type { ClaimedRow } from "./claim.ts"
import type { Hub } from "./hub.ts"
import { QueueState } from "./queueState.ts"

/** A job that this node has claimed. */
export interface Held {
  readonly row: ClaimedRow
  readonly queue: QueueState
  /** Absent where this node has no code for the job. */
  readonly worker: Worker | undefined
  /** Under which identity of the node it was claimed. */
  readonly epoch: number
  phase: "buffered" | "running" | "settling"
  /** Since when it runs; before that, since when it is here. */
  startedAt: number
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  interruption: Attempt.Interruption | undefined
  interruptedAt: number
  told: "nothing" | "slow" | "stuck"
}

/** A verdict that waits to be written. */
export interface Ended {
  readonly held: Held
  /** Absent for a plain completion. */
  readonly verdict: Attempt.Verdict | undefined
  readonly durationMillis: number
  /** Until then it is not written: somebody has locked the job's row. */
  readonly notBefore: number
}

/** Heartbeats, by the monotonic clock. */
interface Beats {
  /** When the last one that succeeded was sent, and since when none has failed. */
  sent: number
  steadySince: number
  /** What time it was for the database at the last one, and when that was seen. */
  time: number | undefined
  timeSeen: number
}

/** How many jobs start in one go, before others have their turn. */
const slice = 64

/** Beyond so many verdicts that wait to be written, nothing more is claimed. */
const unwrittenMax = 10_000

export class Engine {
  readonly name: string
  readonly queues: ReadonlyMap<string, QueueState>
  readonly workers: ReadonlyMap<string, Worker>
  readonly hub: Hub
  /** What jobs run with. */
  readonly services: Context.Context<never>
  readonly clock: Clock.Clock
  private readonly contexts = new Map<Worker, Context.Context<unknown>>()
  readonly held = new Map<number, Held>()
  /** Jobs for which this node has no code: `worker`, or `worker@version`. */
  readonly excluded = new Set<string>()
  unwritten: Array<Ended> = []
  readonly write = Latch.makeUnsafe(false)
  /** Opened whenever a handler has ended or a job has left. */
  readonly left = Latch.makeUnsafe(false)
  id = ""
  epoch = 0
  registered = false
  stopping = false
  /** The node has said that it is gone: it is not to come back. */
  gone = false
  /** By the monotonic clock: when the last heartbeat that succeeded was sent, and since when none has failed. */
  readonly beats: Beats = {
    sent: Number.NEGATIVE_INFINITY,
    steadySince: Number.POSITIVE_INFINITY,
    time: undefined,
    timeSeen: 0
  }
  /** Called when a job is to run again after so many milliseconds. */
  scheduled: (delayMillis: number) => void = () => {}
  /** Claims that are under way. */
  claiming = 0
  wakeUp: "listen" | "poll" = "poll"
  lastBeatAt: number | undefined

  constructor(options: {
    readonly name: string
    readonly queues: Readonly<Record<string, Queue.Options>>
    readonly workers: ReadonlyMap<string, Worker>
    readonly hub: Hub
    readonly services: Context.Context<never>
  }) {
    this.name = options.name
    this.queues = new Map(Object.entries(options.queues).map(([name, queue]) => [name, new QueueState(name, queue)]))
    this.workers = options.workers
    this.hub = options.hub
    this.services = options.services
    this.clock = Context.get(options.services, Clock.Clock)
  }

  now(): number {
    return this.clock.currentTimeMillisUnsafe()
  }

  /** Milliseconds of a clock that nobody sets. */
  monotonic(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe() / 1_000n) / 1_000
  }

  /** How long the oldest claim that is under way has taken so far. */
  oldestClaimMillis(): number {
    const began = Math.min(...Array.from(this.queues.values(), ({ claimingSince }) => claimingSince))
    return this.monotonic() - began
  }

  // ------------------------------------------------------------------------------------------------------------------
  // from the claim to the start
  // ------------------------------------------------------------------------------------------------------------------

  /** How many jobs a queue wants: none until it is worth a claim. */
  demand(queue: QueueState): number {
    if (this.stopping || !this.registered || queue.paused || this.unwritten.length > unwrittenMax) return 0
    const { ahead } = queue
    const wanted = queue.limit + ahead - queue.running - queue.buffer.length
    return wanted >= Math.max(1, ahead >> 1) ? wanted : 0
  }

  /** Takes what a claim brought. `epoch` is whose claim it was: what an identity claimed that was lost is not ours. */
  take(queue: QueueState, rows: ReadonlyArray<ClaimedRow>, epoch: number): void {
    if (epoch !== this.epoch) return
    const now = this.now()
    for (const row of rows) {
      const held: Held = {
        row,
        queue,
        worker: this.workerFor(row),
        epoch,
        phase: "buffered",
        startedAt: now,
        fiber: undefined,
        interruption: undefined,
        interruptedAt: 0,
        told: "nothing"
      }
      this.held.set(row.id, held)
      if (held.worker === undefined) this.refuse(held)
      else if (this.stopping) this.end(held, Attempt.handBack(row))
      else queue.buffer.push(held)
    }
    this.pump(queue)
  }

  /** Starts what has a free slot: a slice now, and the rest when others have had their turn. */
  pump(queue: QueueState): void {
    if (queue.paused) {
      // What was claimed ahead goes back: a paused queue starts nothing.
      for (const held of queue.buffer.splice(0)) this.end(held, Attempt.handBack(held.row))
      return
    }
    // A handler that does not wait ends before `start` returns, and comes back here: the outer loop goes on for it.
    if (queue.pumping) return
    queue.pumping = true
    let next = 0
    while (next < slice && this.hasRoom(queue, next)) {
      const held = queue.buffer[next++]
      if (held !== undefined) this.start(held)
    }
    queue.buffer.splice(0, next)
    queue.pumping = false
    if (this.hasRoom(queue, 0)) queue.ready.openUnsafe()
  }

  private hasRoom(queue: QueueState, next: number): boolean {
    return next < queue.buffer.length && queue.running < queue.limit && !this.stopping
  }

  private workerFor({ args_version, worker: name }: ClaimedRow): Worker | undefined {
    const worker = this.workers.get(name)
    return worker !== undefined && args_version <= worker.spec.argsVersion ? worker : undefined
  }

  /** Leaves a job to nodes that have the code for it, and claims none like it any more. */
  private refuse(held: Held): void {
    const { args_version, worker } = held.row
    const known = this.workers.has(worker)
    held.queue.excludes = true
    this.excluded.add(known ? `${worker}@${args_version}` : worker)
    this.hub.emit([{ _tag: "Unclaimable", reason: known ? "newer args" : "unknown worker", ...this.attempt(held) }])
    this.end(held, Attempt.handBack(held.row))
  }

  private start(held: Held): void {
    const { queue, row, worker } = held
    if (worker === undefined) return
    held.phase = "running"
    held.startedAt = this.now()
    queue.running++
    const job = Attempt.decode(worker, row, queue.name)
    if (this.hub.active) this.hub.publish([{ _tag: "Started", ...this.attempt(held) }])
    if (Exit.isFailure(job)) {
      const [reason] = job.cause.reasons
      if (reason?._tag === "Fail") {
        this.release(held)
        this.end(held, Attempt.invalidArgs(row, this.name, reason.error))
        return
      }
    }
    held.fiber = Exit.isSuccess(job)
      ? Effect.runForkWith(Attempt.servicesOf(this.servicesFor(worker), job.value))(
          Attempt.run(worker, job.value, row.trace, worker.handler)
        )
      : Effect.runFork(Effect.failCause(job.cause))
    held.fiber.addObserver((exit) => this.ended(held, exit))
  }

  /** What a worker's handlers run with, put together once. */
  private servicesFor(worker: Worker): Context.Context<unknown> {
    const known = this.contexts.get(worker)
    if (known !== undefined) return known
    const made = Context.merge(this.services, worker.services)
    this.contexts.set(worker, made)
    return made
  }

  private ended(held: Held, exit: Exit.Exit<unknown, unknown>): void {
    held.fiber = undefined
    const { interruption, row, worker } = held
    if (interruption === "lost" || worker === undefined) return this.conclude(held, () => this.forget(held))
    if (Exit.isSuccess(exit) && worker.spec.encodeResult === undefined) {
      return this.conclude(held, () => this.end(held, undefined))
    }
    // A verdict on a failure may ask the worker for its backoff, which may take a while; the job has its slot until then.
    Effect.runForkWith(this.services)(Attempt.judge(worker, row, this.name, exit, interruption)).addObserver((judged) =>
      this.conclude(held, () => this.end(held, Exit.isSuccess(judged) ? judged.value : Attempt.handBack(row)))
    )
  }

  /** Frees the slot of a job, has it written, and starts what comes next. */
  private conclude(held: Held, end: () => void): void {
    const { queue } = held
    this.release(held)
    end()
    this.pump(queue)
    if (queue.more && this.demand(queue) > 0) queue.wake.openUnsafe()
  }

  /** The handler has ended: its slot is free. */
  private release({ queue }: Held): void {
    queue.running--
    queue.ended++
    this.left.openUnsafe()
  }

  /** Has a verdict written. */
  private end(held: Held, verdict: Attempt.Verdict | undefined): void {
    if (held.interruption === "lost") return this.forget(held)
    // What goes back is older than what was claimed since, and has its turn before it.
    if (verdict?.kind === "handed back")
      held.queue.marks.lower(held.row.priority, held.row.queued_at.getTime(), held.row.id)
    const durationMillis = held.phase === "running" ? this.now() - held.startedAt : 0
    held.phase = "settling"
    held.fiber = undefined
    this.unwritten.push({ held, verdict, durationMillis, notBefore: 0 })
    this.write.openUnsafe()
  }

  /** The job is not here any more. */
  forget(held: Held): void {
    if (this.held.get(held.row.id) === held) this.held.delete(held.row.id)
    this.left.openUnsafe()
  }

  // ------------------------------------------------------------------------------------------------------------------
  // interruption
  // ------------------------------------------------------------------------------------------------------------------

  /** Interrupts a running job; what it ends with then depends on why. */
  interrupt(held: Held, why: Attempt.Interruption): void {
    if (held.phase === "buffered" && why === "cancel") {
      this.unbuffer(held)
      // What somebody wants to be cancelled does not become available again.
      return this.end(held, Attempt.handBack(held.row))
    }
    if (held.phase !== "running" || held.fiber === undefined || held.interruption !== undefined) return
    held.interruption = why
    held.interruptedAt = this.now()
    held.fiber.interruptUnsafe()
  }

  /** Somebody else has the job by now: whatever this node still knows of it is void. */
  lose(held: Held): void {
    if (held.interruption === "lost") return
    this.hub.emit([{ _tag: "LeaseLost", ...this.attempt(held) }])
    if (held.phase === "running") {
      held.interruption = undefined
      this.interrupt(held, "lost")
      held.interruption = "lost"
      return
    }
    held.interruption = "lost"
    if (held.phase === "buffered") {
      this.unbuffer(held)
    } else {
      this.unwritten = this.unwritten.filter((ended) => ended.held !== held)
    }
    this.forget(held)
  }

  private unbuffer(held: Held): void {
    const { buffer } = held.queue
    const index = buffer.indexOf(held)
    if (index >= 0) buffer.splice(index, 1)
  }

  /** Everything that this node has is somebody else's: it was not heard of for too long. */
  fence(): void {
    this.registered = false
    this.epoch++
    const all = [...this.held.values()].filter((held) => held.interruption !== "lost")
    this.hub.emit(all.map((held): JobEvent => ({ _tag: "LeaseLost", ...this.attempt(held) })))
    this.unwritten = []
    for (const queue of this.queues.values()) queue.buffer.length = 0
    for (const held of all) {
      const interrupted = held.interruption !== undefined
      // Before the handler may end, so that what it ends with is void.
      held.interruption = "lost"
      if (held.phase !== "running") {
        this.forget(held)
      } else if (!interrupted) {
        held.interruptedAt = this.now()
        held.fiber?.interruptUnsafe()
      }
    }
  }

  /** Hands back what was claimed ahead: everything, or what has waited here for longer than a while. */
  handBack(longerThanMillis = Number.NEGATIVE_INFINITY): void {
    const before = this.now() - longerThanMillis
    for (const queue of this.queues.values()) {
      const [first] = queue.buffer
      if (first === undefined || first.startedAt > before) continue
      // Its jobs take longer than they did when so many were claimed.
      queue.pace = 0
      for (const held of queue.buffer.splice(0)) this.end(held, Attempt.handBack(held.row))
    }
  }

  // ------------------------------------------------------------------------------------------------------------------
  // what is told
  // ------------------------------------------------------------------------------------------------------------------

  attempt({ queue, row }: Held) {
    // What identifies a row of the table is an id.
    return { id: row.id as JobId, worker: row.worker, queue: queue.name, attempt: row.attempt, lease: row.lease }
  }

  /** Tells of jobs that take long, and of those that do not end although they were interrupted. */
  inspect(): void {
    const now = this.now()
    for (const held of this.held.values()) {
      const { interruptedAt, startedAt, told, worker } = held
      if (held.phase !== "running" || worker === undefined || told === "stuck") continue
      const timeout = worker.spec.timeout
      const since =
        held.interruption === undefined
          ? timeout === undefined
            ? Number.POSITIVE_INFINITY
            : startedAt + Duration.toMillis(timeout)
          : interruptedAt
      if (now >= since + stuckAfterMillis) {
        held.told = "stuck"
        this.hub.emit([{ _tag: "Stuck", interruptedFor: Duration.millis(now - since), ...this.attempt(held) }])
      } else if (told === "nothing" && now >= startedAt + Duration.toMillis(worker.spec.slowAfter)) {
        held.told = "slow"
        this.hub.emit([{ _tag: "Slow", runningFor: Duration.millis(now - startedAt), ...this.attempt(held) }])
      }
    }
  }
}

/** How long after an interruption a handler counts as stuck. */
const stuckAfterMillis = 10_000
