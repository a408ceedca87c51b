import { Job, type JobEvent, JobLogger, Jobs, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Layer, Logger, References, Schema, Stream } from "effect"
import { Virtual } from "./fixtures/engine.ts"

interface Line {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
}

/** Keeps what is logged, and shows none of it. */
const recorder = (lines: Array<Line>) =>
  Layer.merge(
    Logger.layer([
      Logger.make<unknown, void>(({ fiber, logLevel, message }) => {
        const text = Array.isArray(message) ? message.map(String).join(" ") : String(message)
        lines.push({ level: logLevel, text, annotations: fiber.getRef(References.CurrentLogAnnotations) })
      })
    ]),
    Layer.succeed(References.MinimumLogLevel, "All")
  )

const logged = (events: ReadonlyArray<JobEvent.JobEvent>, which: JobLogger.Which) => {
  const lines: Array<Line> = []
  return Effect.as(Effect.provide(JobLogger.run(Stream.fromIterable(events), which), recorder(lines)), lines)
}

const subject = { id: Job.JobId.make(7), worker: "Mail", queue: "mail" }
const attempt = { ...subject, attempt: 2, lease: 3 }
const ended = { ...attempt, duration: Duration.millis(1_500), waited: Duration.millis(20) }
const failed = { ...ended, kind: "failed", message: "Error: no route\n    at send" }

const events: ReadonlyArray<readonly [JobEvent.JobEvent, level: string, text: string]> = [
  [{ _tag: "Enqueued", conflict: false, ...subject }, "Debug", "Mail 7 Enqueued"],
  [{ _tag: "Started", ...attempt }, "Debug", "Mail 7 Started"],
  [{ _tag: "Completed", ...ended }, "Info", "Mail 7 completed in 1s 500ms"],
  [
    { _tag: "Retryable", ...failed, retryIn: Duration.seconds(19) },
    "Warn",
    "Mail 7 failed at attempt 2 and is tried again in 19s: Error: no route"
  ],
  [{ _tag: "Snoozed", ...ended, snoozedFor: Duration.hours(1) }, "Info", "Mail 7 snoozes for 1h"],
  [{ _tag: "Cancelled", ...subject, reason: "enough" }, "Info", "Mail 7 is cancelled: enough"],
  [{ _tag: "Discarded", ...failed }, "Error", "Mail 7 is discarded at attempt 2: Error: no route"],
  [{ _tag: "HandedBack", ...attempt }, "Debug", "Mail 7 HandedBack"],
  [
    { _tag: "Unclaimable", ...attempt, reason: "newer args" },
    "Warn",
    "Mail 7 is left to other nodes: newer args on this one"
  ],
  [{ _tag: "LeaseLost", ...attempt }, "Warn", "Mail 7 is not this node's any more: what it did was not written"],
  [
    { _tag: "Rescued", ...attempt, node: "two", to: "available" },
    "Warn",
    "Mail 7 was taken from two, which was lost; it is available now"
  ],
  [{ _tag: "Slow", ...attempt, runningFor: Duration.minutes(1) }, "Warn", "Mail 7 has been running for 1m"],
  [
    { _tag: "Stuck", ...attempt, interruptedFor: Duration.seconds(30) },
    "Error",
    "Mail 7 was interrupted 30s ago and does not end"
  ],
  [{ _tag: "Retried", ...subject }, "Debug", "Mail 7 Retried"],
  [{ _tag: "Deleted", ...subject }, "Debug", "Mail 7 Deleted"],
  [
    { _tag: "CronFired", ...subject, tick: { name: "digest", at: DateTime.makeUnsafe(0) } },
    "Debug",
    "Mail 7 CronFired"
  ],
  [{ _tag: "Staged", count: 5 }, "Debug", "5 jobs became available"],
  [{ _tag: "Pruned", count: 9 }, "Debug", "9 finished jobs left the history"],
  [{ _tag: "QueueChanged", queue: "mail", change: "paused" }, "Info", "Queue mail was paused"],
  [{ _tag: "WakeUpMode", mode: "listen" }, "Debug", "New jobs are told by notifications"],
  [{ _tag: "WakeUpMode", mode: "poll" }, "Debug", "New jobs are found by polling"]
]

const all = events.map(([event]) => event)

describe("the logger", () => {
  it.effect("says of each event what a person reads, as loudly as it matters", () =>
    Effect.gen(function* () {
      const lines = yield* logged(all, "all")
      assert.deepStrictEqual(
        lines.map(({ level, text }) => [level, text]),
        events.map(([, level, text]) => [level, text])
      )
    })
  )

  it.effect("keeps all of an event in annotations, durations in milliseconds", () =>
    Effect.gen(function* () {
      const [, , , retryable, , , , , , , , , , , , , staged] = yield* logged(all, "all")
      assert.deepStrictEqual(retryable?.annotations, {
        event: "Retryable",
        id: 7,
        worker: "Mail",
        queue: "mail",
        attempt: 2,
        lease: 3,
        duration: 1_500,
        waited: 20,
        kind: "failed",
        message: "Error: no route\n    at send",
        retryIn: 19_000
      })
      assert.deepStrictEqual(staged?.annotations, { event: "Staged", count: 5 })
    })
  )

  it.effect("that is for problems leaves out what goes well, and one for none says nothing", () =>
    Effect.gen(function* () {
      const problems = yield* logged(all, "problems")
      assert.deepStrictEqual(
        problems.map(({ annotations }) => annotations["event"]),
        ["Retryable", "Discarded", "Unclaimable", "LeaseLost", "Rescued", "Slow", "Stuck"]
      )
      assert.isEmpty(yield* logged(all, "none"))
    })
  )
})

class Ends extends Worker.Service<Ends>()("Ends", { args: { how: Schema.String } }) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ args: { how } }) =>
      how === "well" ? Effect.void : how === "badly" ? Effect.die(new Error("broken")) : Job.discard("no use")
    )
  )
}

/** What a node logs of one job that completes, one that is tried again, and one that is discarded. */
const ofNode = (log: JobLogger.Which | undefined, more: Layer.Layer<never, never, Jobs.Jobs> = Layer.empty) =>
  Effect.gen(function* () {
    const lines: Array<Line> = []
    yield* Effect.gen(function* () {
      for (const how of ["well", "badly", "never"]) yield* Ends.enqueue({ how })
      yield* Pglite.settle
    }).pipe(
      Effect.provide(
        more.pipe(
          Layer.provideMerge(Jobs.layer({ queues: { default: 1 }, workers: [Ends.layer], log })),
          Layer.provideMerge(Virtual),
          Layer.provideMerge(recorder(lines))
        )
      )
    )
    return lines
      .filter(({ annotations }) => annotations["worker"] === "Ends")
      .map(({ level, text }) => `${level} ${text}`)
  })

const problems = [
  /^Warn Ends 2 failed at attempt 1 and is tried again in 1\ds: .*broken$/,
  /^Error Ends 3 is discarded at attempt 1: .*no use$/
]

const assertMatches = (lines: ReadonlyArray<string>, expected: ReadonlyArray<RegExp>) => {
  assert.lengthOf(lines, expected.length, lines.join("\n"))
  for (const [index, pattern] of expected.entries()) assert.match(lines[index] ?? "", pattern)
}

describe("a node", () => {
  it.effect("logs problems once each, unless it is told otherwise", () =>
    Effect.map(ofNode(undefined), (lines) => assertMatches(lines, problems))
  )

  it.effect("that is to log all of it does so once", () =>
    Effect.map(ofNode("all"), (lines) => {
      assertMatches(
        lines.filter((line) => !line.startsWith("Debug")),
        [/^Info Ends 1 completed in /, ...problems]
      )
      const enqueued = lines.filter((line) => line.endsWith("Enqueued"))
      assert.deepStrictEqual(enqueued, ["Debug Ends 1 Enqueued", "Debug Ends 2 Enqueued", "Debug Ends 3 Enqueued"])
    })
  )

  it.effect("that is to log nothing is silent", () => Effect.map(ofNode("none"), (lines) => assert.isEmpty(lines)))

  it.effect("that is silent may have a logger beside it", () =>
    Effect.map(ofNode("none", JobLogger.layer("problems")), (lines) => assertMatches(lines, problems))
  )
})
