/**
 * The loop that keeps this node alive in the eyes of others, and gives up in time when it cannot.
 *
 * One statement renews, and brings what others did to this node's jobs. When none has succeeded for too long, the node
 * takes all its leases for lost before anybody may take them over, interrupts its handlers, and comes back under a new id.
 */
import { Duration, Effect, type Latch } from "effect"
import type { Engine } from "./engine.ts"
import type * as Nodes from "./nodes.ts"
import { promptly } from "./promptly.ts"

export interface Options {
  readonly engine: Engine
  /** On a connection that waits for nothing else. */
  readonly nodes: ReturnType<typeof Nodes.make>
  readonly lease: Nodes.Lease
  /** Opened when somebody wants jobs to be cancelled: the next heartbeat, which brings it, is due at once. */
  readonly asked: Latch.Latch
}

export const run = ({ asked, engine, lease, nodes }: Options): Effect.Effect<never> =>
  Effect.gen(function* () {
    const interval = Duration.toMillis(lease.interval)
    const fence = Duration.toMillis(lease.fence)
    while (true) {
      if (engine.gone) return yield* Effect.never
      asked.closeUnsafe()
      const began = engine.monotonic()
      if (engine.registered && began - engine.beats.sent >= fence) {
        yield* Effect.logWarning(
          `This node has not been heard of for ${Math.round(began - engine.beats.sent)} ms: its ${engine.held.size} jobs are given up`
        )
        engine.fence()
      }
      // No longer than until this node must give up, which must not wait for an answer that does not come.
      const left = () => (engine.registered ? Math.max(1, engine.beats.sent + fence - engine.monotonic()) : interval)
      const patience = Math.min(interval, left())
      const beaten = yield* Effect.result(
        promptly(engine.registered ? beat(engine, nodes, interval) : register(engine, nodes), patience, () =>
          Effect.fail(`no answer within ${Math.round(patience)} ms`)
        )
      )
      if (engine.gone) continue
      if (beaten._tag === "Failure") {
        engine.beats.steadySince = Number.POSITIVE_INFINITY
        yield* Effect.logWarning("A heartbeat failed", beaten.failure)
        yield* Effect.sleep(Math.min(interval / 8, left()))
        continue
      }
      if (!beaten.success) {
        yield* Effect.logWarning(`This node was declared dead: its ${engine.held.size} jobs are given up`)
        engine.fence()
        engine.beats.steadySince = Number.POSITIVE_INFINITY
        continue
      }
      engine.beats.sent = began
      engine.beats.steadySince = Math.min(engine.beats.steadySince, began)
      engine.lastBeatAt = engine.now()
      engine.inspect()
      yield* Effect.timeoutOrElse(asked.await, {
        duration: Math.max(0, interval - (engine.monotonic() - began)),
        orElse: () => Effect.void
      })
    }
  })

/** Gives this node an identity, before it claims anything; the last one's jobs are anybody's then. */
export const register = (engine: Engine, nodes: Options["nodes"]) =>
  Effect.gen(function* () {
    const before = engine.id
    const sent = engine.monotonic()
    engine.id = yield* nodes.register(engine.name)
    engine.registered = true
    engine.beats.sent = sent
    for (const queue of engine.queues.values()) queue.look()
    // What it had under its old id is anybody's at once.
    if (before !== "") yield* nodes.stop(before)
    return true
  })

/** Answers whether this node still counts as alive. */
const beat = (engine: Engine, nodes: Options["nodes"], interval: number) =>
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
    watchClock(engine, answer.time, interval)
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

/**
 * When the database's clock was set, the heartbeats of all nodes look as old as it was set forward, until each has sent the
 * next: this node judges nobody for a while. Less than two intervals make nobody look dead.
 */
const watchClock = (engine: Engine, time: number, interval: number): void => {
  const monotonic = engine.monotonic()
  const { beats } = engine
  if (beats.time !== undefined && Math.abs(time - beats.time - (monotonic - beats.timeSeen)) > 2 * interval) {
    beats.steadySince = Number.POSITIVE_INFINITY
  }
  beats.time = time
  beats.timeSeen = monotonic
}
