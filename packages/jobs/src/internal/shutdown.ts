/**
 * The orderly end of a node: it claims nothing more, gives back what it has not begun, lets its handlers finish for a
 * while, interrupts those that have not, and hands their jobs back with the attempt restored.
 */
import { Duration, Effect } from "effect"
import type { Engine, Held } from "./engine.ts"
import type * as Nodes from "./nodes.ts"
import { promptly } from "./promptly.ts"

export interface Options {
  readonly engine: Engine
  readonly nodes: ReturnType<typeof Nodes.make>
  readonly grace: Duration.Duration
}

/** How long handlers that were interrupted may take to end, and how long the last verdicts to be written. */
const interruptTimeout = "5 seconds"
export const writeTimeout = "5 seconds"

export const run = ({ engine, grace, nodes }: Options): Effect.Effect<void> =>
  Effect.gen(function* () {
    engine.stopping = true
    engine.handBack()
    const running = () => [...engine.held.values()].filter(({ phase }) => phase === "running")
    if (Duration.toMillis(grace) > 0)
      yield* within(
        grace,
        until(engine, () => running().length === 0)
      )
    const late = running()
    for (const held of late) engine.interrupt(held, "shutdown")
    yield* within(
      interruptTimeout,
      until(engine, () => running().length === 0)
    )
    const stuck = running()
    if (stuck.length > 0)
      yield* Effect.logWarning(`${stuck.length} jobs do not end: ${describe(stuck)}. They are left to others`)
    // What a claim still brings goes back as well.
    yield* within(
      writeTimeout,
      until(engine, () => engine.claiming === 0 && engine.unwritten.length === 0)
    )
    engine.gone = true
    if (engine.id !== "") yield* Effect.ignore(within(writeTimeout, nodes.stop(engine.id)))
    engine.registered = false
  })

const until = (engine: Engine, done: () => boolean): Effect.Effect<void> =>
  Effect.gen(function* () {
    while (!done()) {
      engine.left.closeUnsafe()
      if (!done()) yield* engine.left.await
    }
  })

/** What is waited for in a finalizer nothing else would end. */
export const within = <E>(duration: Duration.Input, effect: Effect.Effect<void, E>) =>
  promptly(effect, duration, () => Effect.void)

const describe = (jobs: ReadonlyArray<Held>): string =>
  jobs
    .slice(0, 10)
    .map(({ row }) => `${row.worker} ${row.id}`)
    .join(", ")
