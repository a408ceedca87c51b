/**
 * What a job is expected to be, and where it differs.
 */
import { DateTime, Duration, Equal, Exit, Formatter } from "effect"
import type { Job, Worker } from "@coppice/jobs"
import type { Expected } from "../TestJobs.ts"

/** What is expected, whatever the worker. */
export interface Expectation extends Omit<Expected<never>, "args" | "meta"> {
  readonly args?: unknown
  readonly meta?: unknown
}

/** A place where a job is not as expected. */
export interface Difference {
  readonly path: string
  readonly expected: string
  readonly found: string
}

/** Jobs that wait for their first run, as Oban's `assert_enqueued` counts them. */
const waiting: ReadonlyArray<Job.State> = ["available", "scheduled"]

export const statesOf = (expected: Expectation): ReadonlyArray<Job.State> => {
  const { state } = expected
  return state === undefined ? waiting : typeof state === "string" ? [state] : state
}

/** The args as the worker's code sees them. */
export const decodedArgs = (spec: Worker.Spec, job: Job.JobRecord): Exit.Exit<unknown, unknown> =>
  spec.decodeArgs(job.args)

/** All places where a job is not as expected; none if it is. */
export const differences = (
  expected: Expectation,
  spec: Worker.Spec,
  job: Job.JobRecord
): ReadonlyArray<Difference> => [
  ...differencesOfArgs(expected, spec, job),
  ...plain("queue", expected.queue, job.queue),
  ...plain("priority", expected.priority, job.priority),
  ...plain("maxAttempts", expected.maxAttempts, job.maxAttempts),
  ...differencesOfTags(expected.tags ?? [], job.tags),
  ...(expected.meta === undefined ? [] : compare(expected.meta, job.meta, "meta")),
  ...differencesOfTime(expected, job),
  ...differencesOfState(statesOf(expected), job.state)
]

/** Where a value is not what it should be: objects may have more than is expected, all else is equal. */
const compare = (expected: unknown, found: unknown, path: string): ReadonlyArray<Difference> => {
  if (typeof expected === "function") {
    if (expected(found) === true) return []
    return [{ path, expected: "what the predicate accepts", found: show(found) }]
  }
  if (Equal.equals(expected, found)) return []
  if (Array.isArray(expected) && Array.isArray(found) && expected.length === found.length) {
    return expected.flatMap((item, index) => compare(item, found[index], `${path}[${index}]`))
  }
  if (isPlain(expected) && typeof found === "object" && found !== null && !Array.isArray(found)) {
    return Object.entries(expected).flatMap(([key, item]) =>
      // An own property, or a getter of a class.
      compare(
        item,
        Reflect.get(found, key),
        /^[\w$]+$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`
      )
    )
  }
  return [{ path, expected: show(expected), found: show(found) }]
}

/** A value as a text that fits into a line. */
export const show = (value: unknown): string => {
  const text = typeof value === "function" ? "a predicate" : Formatter.format(value)
  return text.length > longest ? `${text.slice(0, longest)}…` : text
}

const longest = 200

export const showTime = (time: DateTime.DateTime): string => DateTime.formatIso(time)

// --------------------------------------------------------------------------------------------------------------------

const plain = (path: string, expected: number | string | undefined, found: number | string) =>
  expected === undefined ? [] : compare(expected, found, path)

const differencesOfArgs = (expected: Expectation, spec: Worker.Spec, job: Job.JobRecord) => {
  const args = decodedArgs(spec, job)
  if (Exit.isFailure(args)) return [{ path: "args", expected: "what fits the worker's schema", found: show(job.args) }]
  return expected.args === undefined ? [] : compare(expected.args, args.value, "args")
}

const differencesOfTags = (expected: ReadonlyArray<string>, found: ReadonlyArray<string>) =>
  expected.every((tag) => found.includes(tag)) ? [] : [{ path: "tags", expected: show(expected), found: show(found) }]

const differencesOfState = (expected: ReadonlyArray<Job.State>, found: Job.State) =>
  expected.includes(found) ? [] : [{ path: "state", expected: expected.join(" or "), found }]

const differencesOfTime = ({ delta, scheduledAt, scheduledIn }: Expectation, job: Job.JobRecord) => {
  const tolerance = Duration.toMillis(Duration.fromInputUnsafe(delta ?? defaultDelta))
  const found = DateTime.toEpochMillis(job.scheduledAt)
  const result: Array<Difference> = []
  if (scheduledAt !== undefined) {
    const expected = DateTime.makeUnsafe(scheduledAt)
    if (Math.abs(found - DateTime.toEpochMillis(expected)) > tolerance) {
      result.push({ path: "scheduledAt", expected: showTime(expected), found: showTime(job.scheduledAt) })
    }
  }
  if (scheduledIn !== undefined) {
    const expected = Duration.fromInputUnsafe(scheduledIn)
    const delay = found - DateTime.toEpochMillis(job.insertedAt)
    if (Math.abs(delay - Duration.toMillis(expected)) > tolerance) {
      result.push({
        path: "scheduledIn",
        expected: Duration.format(expected),
        found: Duration.format(Duration.millis(delay))
      })
    }
  }
  return result
}

/** As Oban's. */
const defaultDelta = "1 second"

const isPlain = (value: unknown): value is Record<string, unknown> => {
  if (typeof value !== "object" || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}
