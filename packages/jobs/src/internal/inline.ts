/**
 * The service for inline mode: whoever enqueues a job runs it.
 *
 * Jobs go through the database all the same, so they are checked, unique and recorded as ever. A job that was enqueued in
 * a transaction runs when that has committed; if it rolls back, there was no job.
 */
import { Cause, Context, Effect } from "effect"
import type { JobId } from "../Job.ts"
import type { Shape } from "../Jobs.ts"
import type { NewJob } from "../NewJob.ts"
import type { Ran } from "../Runner.ts"
import type { Options, Runner } from "./runner.ts"

/** What the service to enqueue and the runner have in common. */
export interface Parts extends Pick<Options, "asked" | "client" | "cron" | "hub"> {
  /** Made after the service, because workers enqueue too. */
  runner: Runner | undefined
}

/** How many jobs may be running, each enqueued by the one before. */
const deepest = 50

const Depth = Context.Reference<number>("@coppice/jobs/Runner/InlineDepth", { defaultValue: () => 0 })

export const make = Effect.fnUntraced(function* (jobs: Shape, parts: Parts) {
  const sql = parts.client.database.client
  const died: Array<Cause.Cause<unknown>> = []
  // After a commit nobody is there to whom a defect could go.
  yield* Effect.addFinalizer(() =>
    died.length === 0 ? Effect.void : Effect.die(new Error(told(died), { cause: Cause.squash(died[0] ?? Cause.empty) }))
  )

  /** The cause of a defect, which nobody would expect of a job. */
  const run = (id: JobId) =>
    Effect.gen(function* () {
      const { runner } = parts
      if (runner === undefined) return yield* Effect.die(new Error(early))
      const depth = yield* Depth
      const ran = yield* runner
        .asNode((node) => runner.runOne(node, id, true, "end"))
        .pipe(Effect.provideService(Depth, depth + 1), Effect.orDie)
      return ran === undefined ? undefined : defectOf(ran)
    })

  const runAll = (ids: ReadonlyArray<JobId>) =>
    Effect.gen(function* () {
      const inside = (yield* Effect.serviceOption(sql.transactionService))._tag === "Some"
      for (const id of ids) {
        if (inside) {
          yield* sql.afterCommit(
            Effect.interruptible(Effect.exit(run(id))).pipe(
              Effect.map((exit) => {
                const cause = exit._tag === "Failure" ? exit.cause : exit.value
                if (cause !== undefined) died.push(cause)
              })
            )
          )
        } else {
          const cause = yield* run(id)
          if (cause !== undefined) return yield* Effect.die(Cause.squash(cause))
        }
      }
    })

  /** Refuses what nobody would run, and what would never end. */
  const check = (all: ReadonlyArray<NewJob>) =>
    Effect.gen(function* () {
      const missing = all.find((job) => parts.runner?.known.has(job.worker) === false)
      if (missing !== undefined) return yield* Effect.die(new Error(unknownWorker(missing.worker)))
      if ((yield* Depth) >= deepest) return yield* Effect.die(new Error(tooDeep(all[0]?.worker ?? "")))
    })

  const shape: Shape = {
    ...jobs,
    enqueue: (job) =>
      Effect.andThen(
        check([job]),
        Effect.tap(jobs.enqueue(job), (result) => (result._tag === "Inserted" ? runAll([result.id]) : Effect.void))
      ),
    enqueueMany: (all) =>
      Effect.andThen(
        check(all),
        Effect.tap(jobs.enqueueMany(all), (results) =>
          runAll(results.flatMap((result) => (result._tag === "Inserted" ? [result.id] : [])))
        )
      ),
    cron: { ...jobs.cron, runNow: (name) => Effect.tap(jobs.cron.runNow(name), (id) => runAll([id])) }
  }
  return shape
})

const defectOf = ({ outcome }: Ran): Cause.Cause<unknown> | undefined =>
  outcome._tag === "Failed" && Cause.hasDies(outcome.cause) ? outcome.cause : undefined

const early = "A job cannot run inline while the layers of the workers are being made: enqueue it later"

const unknownWorker = (worker: string): string =>
  `${worker} is not among the workers of this layer, so nobody can run its jobs inline: add its layer to the workers`

const tooDeep = (worker: string): string =>
  `${deepest} jobs run inside one another, and the last one enqueues ${worker}: does a job enqueue itself? Inline mode runs`
  + " a job where it is enqueued; use the manual mode, and drain with a limit"

const told = (died: ReadonlyArray<Cause.Cause<unknown>>): string =>
  `${died.length} ${died.length === 1 ? "job" : "jobs"} that ran inline after a commit died: ${died.map((cause) => Cause.pretty(cause)).join("\n")}`
