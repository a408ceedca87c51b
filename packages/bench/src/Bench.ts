/**
 * Measures a subject and its baselines side by side: in one process, in turns, over several rounds. The machine may be noisy or slow; a ratio
 * between two contenders that shared its every minute is worth more than a number.
 */
import { Context, Effect, Schema, type Scope } from "effect"

/** One implementation under measurement; `sample` sets it up, measures one round, and takes it down again. */
export interface Contender {
  readonly name: string
  /** The figure of its case, or that figure followed by those of `also`. */
  readonly sample: Effect.Effect<number | ReadonlyArray<number>>
}

/** What is measured, and in which unit. */
export interface Figure {
  readonly name: string
  readonly unit: string
  readonly higherIsBetter: boolean
  /** What the subject's median is to reach, in the figure's unit; `null` when nothing is promised. */
  readonly target: number | null
  /** What the subject's median over that of the baseline with this name is to reach. Default: nothing is promised. */
  readonly ratios?: Readonly<Record<string, number>>
}

/** One or more lines of a suite that come from the same samples, and who is measured. */
export interface Case extends Figure {
  readonly subject: Contender
  readonly baselines: ReadonlyArray<Contender>
  /** Takes each sample in a process of its own, as memory must be. Default: `false`. */
  readonly isolated?: boolean
  /** What a sample says beside the case's own figure. Default: nothing. */
  readonly also?: ReadonlyArray<Figure>
  /** Samples taken of each contender. Default: those of the suite. */
  readonly rounds?: number
}

/** A named list of cases, `npm run bench -- <name>`. */
export interface Suite {
  readonly name: string
  /** Samples taken of each contender. */
  readonly rounds: number
  readonly cases: ReadonlyArray<Case>
  /** Numbers that `--set <name>=<number>` replaces, for samples that ask `size` for them. Default: none. */
  readonly sizes?: Readonly<Record<string, number>>
  /** What all samples share, such as a server, as environment variables; those that are set already it leaves as they are. */
  readonly shared?: Effect.Effect<Readonly<Record<string, string>>, SuiteUnavailable, Scope.Scope>
  /** What a reader of the table has to know, one line each. Default: nothing. */
  readonly notes?: ReadonlyArray<string>
}

/** What the samples of a suite share cannot be had here. */
export class SuiteUnavailable extends Schema.TaggedError<SuiteUnavailable>()("SuiteUnavailable", {
  problem: Schema.String
}) {
  override get message(): string {
    return this.problem
  }
}

export interface Spread {
  readonly min: number
  readonly median: number
  readonly max: number
}

/** One figure, of the subject and of those beside it. */
export interface Measured {
  readonly figure: Figure
  readonly who: string
  readonly subject: Spread
  readonly baselines: ReadonlyArray<readonly [name: string, spread: Spread]>
}

/** Takes the sample of one contender in a fresh process. */
export type Isolate<E> = (entry: Case, contender: Contender) => Effect.Effect<number | ReadonlyArray<number>, E>

/** The sizes of the suite that is running. */
export const Sizes: Context.Reference<Readonly<Record<string, number>>> = Context.Reference("@coppice/bench/Sizes", {
  defaultValue: () => ({})
})

/** A size of the suite; a name that it does not declare is a defect. */
export const size = (name: string): Effect.Effect<number> =>
  Effect.flatMap(Sizes, (sizes) =>
    sizes[name] === undefined ? Effect.die(new Error(`the suite has no size "${name}"`)) : Effect.succeed(sizes[name])
  )

/** Measures every case of a suite, one after the other. `onCase` hears of each before it starts. */
export const run = <E>(
  suite: Suite,
  isolate: Isolate<E>,
  onCase: (entry: Case) => Effect.Effect<void> = () => Effect.void
): Effect.Effect<ReadonlyArray<Measured>, E> =>
  Effect.map(
    Effect.forEach(suite.cases, (entry) =>
      Effect.andThen(onCase(entry), measure(entry, entry.rounds ?? suite.rounds, isolate))
    ),
    (measured) => measured.flat()
  )

/** Milliseconds that an effect takes. */
export const elapsed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const begin = now()
    return Effect.map(effect, () => now() - begin)
  })

/** Operations per second of an effect that does `count` of them. */
export const perSecond = <A, E, R>(count: number, effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.map(elapsed(effect), (millis) => (count * 1000) / millis)

/** Median of the microseconds between the laps that `effect` reports. */
export const microsPerLap = <A, E, R>(
  effect: (lap: () => void) => Effect.Effect<A, E, R>
): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const laps: Array<number> = []
    let last = now()
    const lap = () => {
      const at = now()
      laps.push((at - last) * 1000)
      last = at
    }
    return Effect.map(effect(lap), () => spread(laps).median)
  })

/** Bytes that each of `count` units holds once `build` is done and garbage is gone. Needs `--expose-gc`, and a process of its own. */
export const bytesPerUnit = <A, E, R>(
  memory: "heapUsed" | "rss",
  count: number,
  build: Effect.Effect<A, E, R>
): Effect.Effect<number, E, R> =>
  Effect.gen(function* () {
    const before = yield* settledMemory
    held.push(yield* build)
    const after = yield* settledMemory
    return (after[memory] - before[memory]) / count
  })

/** What the process holds once garbage is gone. Needs `--expose-gc`. */
export const settledMemory: Effect.Effect<NodeJS.MemoryUsage> = Effect.gen(function* () {
  if (globalThis.gc === undefined)
    return yield* Effect.die(new Error("memory is measured after a collection: run node with --expose-gc"))
  // Fibers that were only just forked get to their idle place first; a second collection takes what finalizers let go.
  for (let pass = 0; pass < 2; pass++) {
    yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
    globalThis.gc()
  }
  return process.memoryUsage()
})

/** The value that `percent` of the samples do not exceed, by nearest rank; `NaN` of no sample. */
export const percentile = (samples: ReadonlyArray<number>, percent: number): number => {
  const sorted = samples.toSorted((a, b) => a - b)
  return sorted[Math.max(Math.ceil((percent / 100) * sorted.length), 1) - 1] ?? Number.NaN
}

/** Minimum, median and maximum of at least one sample. */
export const spread = (samples: ReadonlyArray<number>): Spread => {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = (index: number) => sorted[index] ?? Number.NaN
  const half = (sorted.length - 1) / 2
  return { min: at(0), median: (at(Math.floor(half)) + at(Math.ceil(half))) / 2, max: at(sorted.length - 1) }
}

const warmUps = 2

const measure = Effect.fnUntraced(function* <E>(entry: Case, rounds: number, isolate: Isolate<E>) {
  const figures = [entry, ...(entry.also ?? [])]
  const entrant = (contender: Contender) => ({ contender, samples: figures.map(() => new Array<number>()) })
  const subject = entrant(entry.subject)
  const baselines = entry.baselines.map(entrant)
  // A fresh process is always cold, and its memory does not warm up.
  for (let round = entry.isolated ? 0 : -warmUps; round < rounds; round++) {
    for (const { contender, samples } of startingAt(round, [subject, ...baselines])) {
      globalThis.gc?.()
      const taken = yield* entry.isolated ? isolate(entry, contender) : contender.sample
      const values = typeof taken === "number" ? [taken] : taken
      if (round >= 0) samples.forEach((of, index) => of.push(values[index] ?? Number.NaN))
    }
  }
  return figures.map((figure, index): Measured => ({
    figure,
    who: entry.subject.name,
    subject: spread(subject.samples[index] ?? []),
    baselines: baselines.map(({ contender, samples }) => [contender.name, spread(samples[index] ?? [])] as const)
  }))
})

// Each round begins with another contender, so that none always runs in the wake of the same one.
const startingAt = <A>(round: number, turns: ReadonlyArray<A>): ReadonlyArray<A> => {
  const first = Math.max(round, 0) % turns.length
  return [...turns.slice(first), ...turns.slice(0, first)]
}

// What was built for a memory sample: out of the collector's reach for as long as the process lives.
const held: Array<unknown> = []

// A benchmark measures the machine, so it reads the machine's clock and not Effect's.
const now = () => performance.now()
