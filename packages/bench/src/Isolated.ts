/** Samples taken in a process of their own: the benchmark runs itself again and asks for the numbers of one sample. */
import { Effect, Schema } from "effect"
import { execFile } from "node:child_process"
import type { Case, Contender, Isolate, Suite } from "./Bench.ts"

/** The process that was to take a sample ended without saying a number. */
export class IsolatedSampleFailed extends Schema.TaggedError<IsolatedSampleFailed>()("IsolatedSampleFailed", {
  sample: Schema.String,
  output: Schema.String
}) {
  override get message(): string {
    return `the process measuring ${this.sample} gave no number; it said: ${this.output.trim() || "nothing"}`
  }
}

/**
 * Runs `main` (the path of the command line's entry) with this process's own node options, and `shared` in the environment; the process
 * ends with the sample.
 */
export const isolate =
  (main: string, suite: Suite, shared: Readonly<Record<string, string>>): Isolate<IsolatedSampleFailed> =>
  (entry, contender) =>
    Effect.callback<ReadonlyArray<number>, IsolatedSampleFailed>((resume, signal) => {
      const sample = sampleName(entry, contender)
      const sizes = Object.entries(suite.sizes ?? {}).map(([name, value]) => `--set=${name}=${value}`)
      const args = [...process.execArgv, main, suite.name, ...sizes, "--sample", sample]
      execFile(process.execPath, args, { signal, env: { ...process.env, ...shared } }, (error, stdout, stderr) => {
        const values = said(stdout)
        if (error === null && values !== undefined) return resume(Effect.succeed(values))
        resume(new IsolatedSampleFailed({ sample, output: `${stdout}${stderr}${error?.message ?? ""}` }))
      })
    })

/** What the process of a sample prints for `said` to read. */
export const say = (sample: number | ReadonlyArray<number>): string =>
  `${marker}${(typeof sample === "number" ? [sample] : sample).join(" ")}`

/** The numbers of a sample, whatever else the implementation printed; `undefined` when there are none. */
export const said = (output: string): ReadonlyArray<number> | undefined => {
  const line = output.split("\n").findLast((line) => line.startsWith(marker))
  const values = line?.slice(marker.length).split(" ").map(Number.parseFloat)
  return values?.every(Number.isFinite) ? values : undefined
}

const marker = "sample: "

/** How a sample is asked for on the command line. */
export const sampleName = (entry: Case, contender: Contender): string => `${entry.name}: ${contender.name}`
