import { type Crontab, Jobs, JobsConfig, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, DateTime, Effect, Exit, Layer, Ref, Schema } from "effect"
import { TestClock } from "effect/testing"
import { EmptyDatabase } from "./fixtures/engine.ts"

class Log extends Context.Service<Log, Ref.Ref<ReadonlyArray<string>>>()("test/Log") {
  static readonly layer = Layer.effect(Log, Ref.make<ReadonlyArray<string>>([]))
}

class Note extends Worker.Service<Note>()("Note", { args: { text: Schema.String }, unique: { period: "1 day" } }) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const log = yield* Log
      return ({ args, cron }) =>
        Effect.gen(function* () {
          const time = DateTime.formatIso(yield* DateTime.now)
          const tick = cron === undefined ? "by hand" : `for ${cron.name} at ${DateTime.formatIso(cron.at)}`
          yield* Ref.update(log, (all) => [...all, `${args.text} ${tick}, ran at ${time}`])
        })
    })
  )
}

const entry = (name: string, expression: string, more: Partial<Crontab.Entry> = {}): Crontab.Entry => ({
  name,
  expression,
  job: Note.job({ text: "hello" }),
  ...more
})

const node = (cron: ReadonlyArray<Crontab.Entry>) =>
  Jobs.layer({ queues: { default: 10 }, workers: [Note.layer], cron }).pipe(
    Layer.provideMerge(Log.layer),
    Layer.provideMerge(EmptyDatabase),
    Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
  )

/** What handlers noted, and what was noted since. */
const noted = Effect.flatMap(Log, (log) => Ref.getAndSet(log, []))

describe("Jobs.layer with a crontab", () => {
  it.effect("runs the jobs of its entries, which know their instant, whatever their uniqueness says", () =>
    Effect.gen(function* () {
      const { cron } = yield* Jobs.Jobs
      yield* Pglite.advance("10 seconds")
      assert.deepStrictEqual(yield* noted, [
        "hello for boot at 2026-03-28T23:59:00.000Z, ran at 2026-03-28T23:59:00.000Z"
      ])
      yield* Pglite.advance("2 hours")
      assert.deepStrictEqual(yield* noted, [
        "hello for hourly at 2026-03-29T00:00:00.000Z, ran at 2026-03-29T00:00:00.000Z",
        "hello for hourly at 2026-03-29T01:00:00.000Z, ran at 2026-03-29T01:00:00.000Z",
        "hello for nightly at 2026-03-29T01:00:00.000Z, ran at 2026-03-29T01:00:00.000Z"
      ])
      yield* cron.pause("hourly")
      yield* cron.create(entry("new", "@daily"))
      yield* cron.change("new", { expression: "30 2 * * *", job: Note.job({ text: "changed" }) })
      const id = yield* cron.runNow("new")
      yield* Pglite.advance("1 hour")
      assert.strictEqual((yield* (yield* Jobs.Jobs).get(id)).state, "completed")
      assert.deepStrictEqual(yield* noted, [
        "changed for new at 2026-03-29T01:59:10.000Z, ran at 2026-03-29T01:59:10.000Z",
        "changed for new at 2026-03-29T02:30:00.000Z, ran at 2026-03-29T02:30:00.000Z"
      ])
    }).pipe(
      Effect.provide(
        Layer.unwrap(
          Effect.as(
            TestClock.setTime(Date.parse("2026-03-28T23:59:00Z")),
            node([
              entry("hourly", "@hourly"),
              entry("nightly", "30 2 * * *", { timeZone: "Europe/Berlin" }),
              entry("boot", "@reboot")
            ])
          )
        )
      )
    )
  )

  it.effect("does not start with an entry that is wrong", () =>
    Effect.gen(function* () {
      for (const [cron, said] of [
        [[entry("a", "0 0 30 2 *")], 'The cron entry "a" has the expression "0 0 30 2 *", which never fires'],
        [[entry("a", "@daily"), entry("a", "@hourly")], 'The cron entry "a" is there twice'],
        [[entry("a", "@daily", { job: Note.job({ text: "\u0000" }) })], "args.text contains a NUL byte"]
      ] as const) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(node(cron))))
        assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "it started", said)
      }
    })
  )
})
