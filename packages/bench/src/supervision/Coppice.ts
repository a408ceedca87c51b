/** A GenServer and its supervisor, used as an application uses them. */
import { Child, GenServer, Supervisor } from "@coppice/supervision"
import { Deferred, Effect, Layer } from "effect"
import { type Counter, crashed, type Implementation } from "./Implementation.ts"

class CountServer extends GenServer.Service<CountServer>()("bench/CountServer", {
  init: (started: () => void) =>
    Effect.sync(() => {
      started()
      return { count: 0 }
    }),
  calls: {
    increment: (state, by: number) => Effect.succeed(GenServer.reply(state.count + by, { count: state.count + by }))
  },
  casts: {
    reset: () => Effect.succeed({ count: 0 }),
    crash: () => Effect.die(crashed)
  }
}) {}

const tree = (children: ReadonlyArray<Child.Child<string, CountServer, never, never>>) =>
  // It is to restart, not to give up: the window is as short and the number as high as can be.
  Supervisor.layer("bench", { strategy: "one_for_one", maxRestarts: 1_000_000, within: "1 millis", children })

export const coppice: Implementation = {
  name: "Coppice",
  operations: 200_000,
  counter: Effect.gen(function* () {
    let restarted = Deferred.makeUnsafe<void>()
    const started = () => Deferred.doneUnsafe(restarted, Effect.void)
    const context = yield* Layer.build(tree([Child.layer("counter", CountServer.layer(started))]))
    return {
      calls: (count) =>
        Effect.gen(function* () {
          for (let i = 0; i < count; i++) yield* CountServer.increment(1)
        }).pipe(Effect.orDie, Effect.provideContext(context)),
      casts: (count) =>
        Effect.gen(function* () {
          for (let i = 0; i < count; i++) yield* CountServer.reset()
          yield* CountServer.increment(0)
        }).pipe(Effect.orDie, Effect.provideContext(context)),
      crashes: (count, lap) =>
        Effect.gen(function* () {
          for (let i = 0; i < count; i++) {
            restarted = Deferred.makeUnsafe()
            yield* CountServer.crash()
            yield* Deferred.await(restarted)
            lap()
          }
        }).pipe(Effect.provideContext(context))
    } satisfies Counter
  }).pipe(Effect.orDie),
  counters: (count) =>
    Layer.build(
      tree(
        Array.from({ length: count }, (_, i) =>
          Child.layer(
            `counter-${i}`,
            CountServer.layer(() => {})
          )
        )
      )
    ).pipe(Effect.orDie)
}
