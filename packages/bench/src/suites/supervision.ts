/** Supervised GenServers beside what one would write by hand. */
import { Effect, Exit, References, Scope } from "effect"
import { bytesPerUnit, type Case, type Contender, microsPerLap, perSecond, type Suite } from "../Bench.ts"
import { bareEffect } from "../supervision/BareEffect.ts"
import { coppice } from "../supervision/Coppice.ts"
import type { Implementation } from "../supervision/Implementation.ts"
import { plainJavaScript } from "../supervision/PlainJavaScript.ts"

const children = 5_000
// Enough that what a process allots in large steps does not show.
const idleChildren = 10_000
const restarts = 5_000

/** A measurement of any implementation; the scope ends with the sample. */
type Sample = (implementation: Implementation) => Effect.Effect<number, never, Scope.Scope>

const call =
  (callers: number): Sample =>
  ({ counter, operations }) =>
    Effect.flatMap(counter, ({ calls }) =>
      perSecond(
        operations,
        Effect.forEach(Array.from({ length: callers }), () => calls(operations / callers), {
          concurrency: "unbounded",
          discard: true
        })
      )
    )

const cast: Sample = ({ counter, operations }) =>
  Effect.flatMap(counter, ({ casts }) => perSecond(operations, casts(operations)))

const startAndStop: Sample = ({ counter, operations }) => {
  const count = operations / 100
  return perSecond(count, Effect.replicateEffect(Effect.scoped(counter), count, { discard: true }))
}

const start: Sample = ({ counters }) => perSecond(children, counters(children))

const stop: Sample = ({ counters }) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    yield* Scope.provide(counters(children), scope)
    return yield* perSecond(children, Scope.close(scope, Exit.void))
  })

const restartTime: Sample = ({ counter }) =>
  Effect.flatMap(counter, ({ crashes }) => microsPerLap((lap) => crashes(restarts, lap)))

const restartRate: Sample = ({ counter }) =>
  Effect.flatMap(counter, ({ crashes }) =>
    perSecond(
      restarts,
      crashes(restarts, () => {})
    )
  )

const idle =
  (memory: "heapUsed" | "rss"): Sample =>
  ({ counters }) =>
    bytesPerUnit(memory, idleChildren, counters(idleChildren))

const compare = (
  name: string,
  unit: string,
  sample: Sample,
  promise: Pick<Case, "higherIsBetter" | "target" | "isolated">
): Case => {
  const contender = (implementation: Implementation): Contender => ({
    name: implementation.name,
    // What a restart logs is not part of its time: a log that is read is another thing to measure.
    sample: Effect.provideService(Effect.scoped(sample(implementation)), References.MinimumLogLevel, "None")
  })
  const baselines = [bareEffect, plainJavaScript].map(contender)
  return { name, unit, ...promise, subject: contender(coppice), baselines }
}

export const supervision: Suite = {
  name: "supervision",
  rounds: 5,
  cases: [
    compare("call, 1 caller", "calls/s", call(1), { higherIsBetter: true, target: 2_000_000 }),
    compare("call, 100 callers", "calls/s", call(100), { higherIsBetter: true, target: 2_000_000 }),
    compare("cast", "casts/s", cast, { higherIsBetter: true, target: 8_000_000 }),
    compare("start and stop, one child", "times/s", startAndStop, { higherIsBetter: true, target: null }),
    compare("start, many children", "children/s", start, { higherIsBetter: true, target: 150_000 }),
    compare("orderly stop, many children", "children/s", stop, { higherIsBetter: true, target: 100_000 }),
    compare("restart, median", "us", restartTime, { higherIsBetter: false, target: 20 }),
    compare("restart, back to back", "restarts/s", restartRate, { higherIsBetter: true, target: 40_000 }),
    compare("idle child, heap", "bytes", idle("heapUsed"), { higherIsBetter: false, target: 2_500, isolated: true }),
    compare("idle child, resident", "bytes", idle("rss"), { higherIsBetter: false, target: null, isolated: true })
  ]
}
