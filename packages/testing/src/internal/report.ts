/**
 * What a failed assertion says: what was expected, which jobs come near it, and what else there is.
 */
import { Duration, type DateTime } from "effect"
import type { Job, Worker } from "@coppice/jobs"
import { differences, type Expectation, show, showTime, statesOf } from "./expectation.ts"

/** How many jobs of a kind are shown. */
const shown = 5

/** Why no job is as expected; `jobs` are all that there are, newest first. */
export const missing = (spec: Worker.Spec, expected: Expectation, jobs: ReadonlyArray<Job.JobRecord>): string => {
  const near = jobs
    .filter(({ worker }) => worker === spec.name)
    .map((job) => ({ job, differences: differences(expected, spec, job) }))
    .toSorted((a, b) => a.differences.length - b.differences.length)
  const others = jobs.filter(({ worker }) => worker !== spec.name)
  return sections([
    `No job of ${spec.name} is enqueued with`,
    lines(describe(expected)),
    near.length > 0 && `What there is of ${spec.name}:`,
    lines(
      limited(near, ({ differences, job }) => [
        headline(job),
        ...differences.map(({ expected, found, path }) => `  ${path}: expected ${expected}, found ${found}`)
      ])
    ),
    others.length > 0 && "Jobs of others:",
    lines(limited(others, (job) => [`${headline(job)} ${show(job.args)}`])),
    jobs.length === 0
      && "There are no jobs at all. Has the transaction that enqueued it ended, and not rolled back? Is it the same database?"
  ])
}

/** Which jobs are as nobody should be. */
export const present = (spec: Worker.Spec, expected: Expectation, found: ReadonlyArray<Job.JobRecord>): string =>
  sections([
    `${found.length === 1 ? "A job" : `${found.length} jobs`} of ${spec.name} should not be enqueued with`,
    lines(describe(expected)),
    "There is:",
    lines(limited(found, (job) => [`${headline(job)} ${show(job.args)}`]))
  ])

const describe = (expected: Expectation): ReadonlyArray<string> => {
  const { args, delta: _, maxAttempts, meta, priority, queue, scheduledAt, scheduledIn, tags } = expected
  const given: ReadonlyArray<readonly [string, string | undefined]> = [
    ["args", args === undefined ? undefined : show(args)],
    ["queue", queue === undefined ? undefined : show(queue)],
    ["priority", priority?.toString()],
    ["maxAttempts", maxAttempts?.toString()],
    ["tags", tags === undefined ? undefined : show(tags)],
    ["meta", meta === undefined ? undefined : show(meta)],
    ["scheduledAt", scheduledAt === undefined ? undefined : show(scheduledAt)],
    ["scheduledIn", scheduledIn === undefined ? undefined : Duration.format(Duration.fromInputUnsafe(scheduledIn))],
    ["state", statesOf(expected).join(" or ")]
  ]
  return given.flatMap(([name, text]) => (text === undefined ? [] : [`${name}: ${text}`]))
}

const headline = ({ id, queue, scheduledAt, state, worker }: Job.JobRecord): string =>
  `#${id} ${worker}, ${state}${timeOf(state, scheduledAt)}, in queue ${show(queue)}`

const timeOf = (state: Job.State, scheduledAt: DateTime.Utc): string =>
  state === "scheduled" || state === "retryable" ? ` for ${showTime(scheduledAt)}` : ""

const limited = <A>(all: ReadonlyArray<A>, text: (one: A) => ReadonlyArray<string>): ReadonlyArray<string> => [
  ...all.slice(0, shown).flatMap(text),
  ...(all.length > shown ? [`and ${all.length - shown} more`] : [])
]

const lines = (all: ReadonlyArray<string>): string => all.map((line) => `  ${line}`).join("\n")

const sections = (all: ReadonlyArray<string | false>): string =>
  all.filter((section) => section !== false && section !== "").join("\n\n")
