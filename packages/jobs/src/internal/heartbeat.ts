/**
 * The loop that keeps this node alive in the eyes of others, and gives up in time when it cannot.
 *
 * One statement renews, and brings what others did to this node's jobs. When none has succeeded for too long, the node
 * takes all its leases for lost before anybody may take them over, interrupts its handlers, and comes back under a new id.
 */
import { Duration, Effect, type Latch } from "effect"
import { JobId } from "../Job.ts"
import type { Engine } from "./engine.ts"
import * as Nodes from "./nodes.ts"

export interface Options {
  readonly engine: Engine
  readonly nodes: ReturnType<typeof Nodes.make>
  readonly lease: Nodes.Lease
  /** Tells others that a queue has jobs again. */
  readonly available: (queue: string) => void
  /** Opened when somebody wants jobs to be cancelled: the next heartbeat, which brings it, is due at once. */
  readonly asked: Latch.Latch
}

export const run = ({ asked, available, engine, lease, nodes }: Options): Effect.Effect<never> =>
  Effect.gen(function* () {
    const interval = Duration.toMillis(lease.interval)
    const fence = Duration.toMillis(lease.fence)
    const expiry = Duration.toMillis(lease.expiry)
    /** When the last heartbeat that succeeded was sent, and since when none has failed; by the monotonic clock. */
    let sent = monotonic(engine)
    let steadySince = Number.POSITIVE_INFINITY
    let strays = 0
    while (true) {
      asked.closeUnsafe()
      const began = monotonic(engine)
      if (engine.registered && began - sent > fence) {
        yield* Effect.logWarning(
          `This node has not been heard of for ${Math.round(began - sent)} ms: its ${engine.held.size} jobs are given up`
        )
        engine.fence()
      }
      const beaten = yield* Effect.result(
        Effect.timeoutOrElse(engine.registered ? beat(engine, nodes) : register(engine, nodes), {
          duration: lease.interval,
          orElse: () => Effect.fail(`no answer within ${Duration.format(lease.interval)}`)
        })
      )
      if (beaten._tag === "Failure") {
        steadySince = Number.POSITIVE_INFINITY
        yield* Effect.logWarning("A heartbeat failed", beaten.failure)
        yield* Effect.sleep(interval / 8)
        continue
      }
      if (!beaten.success) {
        yield* Effect.logWarning(`This node was declared dead: its ${engine.held.size} jobs are given up`)
        engine.fence()
        steadySince = Number.POSITIVE_INFINITY
        continue
      }
      sent = began
      engine.lastBeatAt = engine.now()
      steadySince = Math.min(steadySince, began)
      engine.inspect()
      // After an outage of the database every node looks dead. Only one that was not interrupted itself may judge.
      const mayJudge = began - steadySince >= expiry
      const taken = yield* Effect.result(takeOver(engine, nodes, mayJudge, available))
      if (taken._tag === "Failure") yield* Effect.logWarning("Jobs of lost nodes could not be rescued", taken.failure)
      if (++strays % strayRounds === 0) {
        const found = yield* Effect.result(nodes.strays(engine.id, [...engine.held.keys()]))
        if (found._tag === "Success") for (const queue of found.success) available(queue)
        yield* Effect.ignore(nodes.forget)
      }
      yield* Effect.timeoutOrElse(asked.await, {
        duration: Math.max(0, interval - (monotonic(engine) - began)),
        orElse: () => Effect.void
      })
    }
  })

/** Every so many heartbeats, what was claimed without an answer is looked for. */
const strayRounds = 3

const monotonic = (engine: Engine): number => Number(engine.clock.monotonicTimeNanosUnsafe() / 1_000n) / 1_000

/** Gives this node an identity, before it claims anything; the last one's jobs are anybody's then. */
export const register = (engine: Engine, nodes: Options["nodes"]) =>
  Effect.gen(function* () {
    const before = engine.id
    engine.id = yield* nodes.register(engine.name)
    engine.registered = true
    for (const queue of engine.queues.values()) queue.look()
    // What it had under its old id is anybody's at once.
    if (before !== "") yield* nodes.stop(before)
    return true
  })

/** Answers whether this node still counts as alive. */
const beat = (engine: Engine, nodes: Options["nodes"]) =>
  Effect.gen(function* () {
    const { epoch, id } = engine
    const held = [...engine.held.values()].filter(({ interruption }) => interruption !== "lost")
    const answer = yield* nodes.beat(
      id,
      held.map(({ row }) => row.id),
      held.map(({ row }) => row.lease)
    )
    if (epoch !== engine.epoch) return true
    if (!answer.registered) return false
    const byId = new Map(held.map((one) => [one.row.id, one]))
    for (const id of answer.lost) {
      const one = byId.get(id)
      // What was written meanwhile has left as well, and is not lost.
      if (one !== undefined && engine.held.get(id) === one && one.phase !== "settling") engine.lose(one)
    }
    for (const id of answer.cancel) {
      const one = byId.get(id)
      if (one !== undefined) engine.interrupt(one, "cancel")
    }
    return true
  })

const takeOver = Effect.fnUntraced(function* (
  engine: Engine,
  nodes: Options["nodes"],
  expired: boolean,
  available: Options["available"]
) {
  while (true) {
    const rescued = yield* nodes.rescue(expired)
    engine.hub.emit(
      rescued.map(({ attempt, id, lease, node, queue, state, worker }) => ({
        _tag: "Rescued" as const,
        id: JobId.make(id),
        worker,
        queue,
        attempt,
        lease,
        node,
        to: state
      }))
    )
    for (const queue of new Set(rescued.map(({ queue }) => queue))) available(queue)
    if (rescued.length < Nodes.batch) return
  }
})
