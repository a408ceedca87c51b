/**
 * The loop that takes over what dead nodes leave, and finds what this node has without knowing.
 *
 * It is not the heartbeat's: whatever its statements wait for, the node is alive meanwhile.
 */
import { Duration, Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type { JobId } from "../Job.ts"
import type { Engine } from "./engine.ts"
import * as Nodes from "./nodes.ts"

export interface Options {
  readonly engine: Engine
  readonly nodes: ReturnType<typeof Nodes.make>
  readonly lease: Nodes.Lease
  /** Tells others that a queue has jobs again. */
  readonly available: (queue: string) => void
}

/** Every so many rounds, what was claimed without an answer is looked for, and old nodes are forgotten. */
const strayRounds = 3

/** While a claim takes longer than this, what it may yet bring is not a stray. */
const claimMillis = 5_000

export const run = (options: Options): Effect.Effect<never> =>
  Effect.gen(function* () {
    const { engine, lease } = options
    for (let round = 1; ; round++) {
      yield* Effect.sleep(lease.interval)
      if (!engine.registered || engine.gone) continue
      const taken = yield* Effect.result(takeOver(options))
      if (taken._tag === "Failure") yield* Effect.logWarning("Jobs of lost nodes could not be rescued", taken.failure)
      if (round % strayRounds !== 0) continue
      yield* tidy("Jobs that were claimed without an answer could not be looked for", findStrays(options))
      yield* tidy("Nodes of long ago could not be forgotten", options.nodes.forget)
    }
  })

/** What can wait for the next time. */
const tidy = (failed: string, effect: Effect.Effect<void, SqlError>): Effect.Effect<void> =>
  Effect.catch(effect, (error) => Effect.logWarning(`${failed}; trying again later`, error))

const takeOver = Effect.fnUntraced(function* ({ available, engine, lease, nodes }: Options) {
  while (true) {
    // After an outage of the database every node looks dead. Only one that was not interrupted itself may judge.
    const expired = engine.monotonic() - engine.beats.steadySince >= Duration.toMillis(lease.expiry)
    const rescued = yield* nodes.rescue(engine.id, expired)
    engine.hub.emit(
      rescued.map(({ attempt, id, lease, node, queue, state, worker }) => ({
        _tag: "Rescued" as const,
        // What identifies a row of the table is an id.
        id: id as JobId,
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

const findStrays = Effect.fnUntraced(function* ({ available, engine, nodes }: Options) {
  const { epoch, id } = engine
  const known = [...engine.held.values()].filter(({ interruption }) => interruption !== "lost")
  const found = yield* nodes.strays(
    id,
    known.map(({ row }) => row.id)
  )
  if (found.length === 0 || engine.epoch !== epoch || engine.oldestClaimMillis() > claimMillis) return
  // What has come since.
  const strays = found.filter(({ id, lease }) => engine.held.get(id)?.row.lease !== lease)
  if (strays.length === 0) return
  yield* Effect.logWarning(`${strays.length} jobs were claimed without an answer, and are made available again`)
  yield* nodes.giveBack(id, strays)
  for (const queue of new Set(strays.map(({ queue }) => queue))) available(queue)
})
