/**
 * The orderly end of a node: it claims nothing more, gives back what it has not begun, lets its handlers finish for a
 * while, interrupts those that have not, and hands their jobs back with the attempt restored.
 */
import { Duration, Effect } from "effect"
import type { Engine, Held } from "./engine.ts"
import type * as Nodes from "./nodes.ts"
import { promptly, within } from "./promptly.ts"

export interface Options {
  readonly engine: Engine
  readonly nodes: ReturnType<typeof Nodes.make>
  /** By the clock of the jobs. */
  readonly grace: Duration.Duration
  /** How long handlers that were interrupted may take to end, and then how long the database may take for what is left. */
  readonly patience: Duration.Input
  /** Sends what others are still to be told. */
  readonly tell: Effect.Effect<void>
}

export const run = ({ engine, grace, nodes, patience, tell }: Options): Effect.Effect<void> =>
  Effect.gen(function* () {
    engine.stopping = true
    engine.handBack()
    const running = () => [...engine.held.values()].filter(({ phase }) => phase === "running")
    const farewell = Effect.gen(function* () {
      // What a claim still brings goes back as well.
      yield* until(engine, () => engine.claiming === 0 && engine.unwritten.length === 0)
      engine.gone = true
      if (engine.id !== "") {
        yield* Effect.catch(nodes.stop(engine.id), (error) =>
          Effect.logWarning("This node could not say that it ends; others notice when its leases have", error)
        )
      }
      yield* tell
    })
    const none = until(engine, () => running().length === 0)
    if (Duration.toMillis(grace) > 0) yield* promptly(none, grace, () => Effect.void)
    const late = running()
    for (const held of late) engine.interrupt(held, "shutdown")
    yield* within(patience, none)
    const stuck = running()
    if (stuck.length > 0)
      yield* Effect.logWarning(`${stuck.length} jobs do not end: ${describe(stuck)}. They are left to others`)
    yield* within(patience, farewell)
    engine.gone = true
    engine.registered = false
  })

const until = (engine: Engine, done: () => boolean): Effect.Effect<void> =>
  Effect.gen(function* () {
    while (!done()) {
      engine.left.closeUnsafe()
      if (!done()) yield* engine.left.await
    }
  })

const describe = (jobs: ReadonlyArray<Held>): string =>
  jobs
    .slice(0, 10)
    .map(({ row }) => `${row.worker} ${row.id}`)
    .join(", ")
