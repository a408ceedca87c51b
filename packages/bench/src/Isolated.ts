/** Samples taken in a process of their own: the benchmark runs itself again and asks for one number. */
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

/** Runs `main` (the path of the command line's entry) with this process's own node options; the process ends with the sample. */
export const isolate =
  (main: string, suite: Suite): Isolate<IsolatedSampleFailed> =>
  (entry, contender) =>
    Effect.callback<number, IsolatedSampleFailed>((resume, signal) => {
      const sample = sampleName(entry, contender)
      const args = [...process.execArgv, main, suite.name, "--sample", sample]
      execFile(process.execPath, args, { signal }, (error, stdout, stderr) => {
        const value = Number.parseFloat(stdout)
        if (error === null && Number.isFinite(value)) return resume(Effect.succeed(value))
        resume(new IsolatedSampleFailed({ sample, output: `${stdout}${stderr}${error?.message ?? ""}` }))
      })
    })

/** How a sample is asked for on the command line. */
export const sampleName = (entry: Case, contender: Contender): string => `${entry.name}: ${contender.name}`
