import { Jobs, Migrations, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Latch, Layer } from "effect"
import { SqlClient } from "effect/sql"
import * as Database from "../src/internal/database.ts"
import { Engine } from "../src/internal/engine.ts"
import { Hub } from "../src/internal/hub.ts"
import * as Poll from "../src/internal/poll.ts"
import * as Producer from "../src/internal/producer.ts"
import * as Stage from "../src/internal/stage.ts"
import { inserted, Virtual } from "./fixtures/engine.ts"

const Tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(Virtual))

const engineWith = Effect.fnUntraced(function* (queues: ConstructorParameters<typeof Engine>[0]["queues"]) {
  const services = yield* Effect.context<never>()
  return new Engine({ name: "me", queues, workers: new Map(), hub: new Hub(services), services })
})

describe("the poll", () => {
  it.effect("seldom walks over jobs that this node must leave to others, and yet looks for new ones", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const engine = yield* engineWith({ mixed: { limit: 1 }, plain: { limit: 1 } })
      const [mixed, plain] = [...engine.queues.values()]
      if (mixed === undefined || plain === undefined) return yield* Effect.die("there are two queues")
      mixed.excludes = true
      const stage = Stage.make(yield* Database.make(sql, "jobs", "clock"))
      const asked: Array<string> = []
      let looks = 0
      yield* Effect.forkScoped(
        Poll.run({
          engine,
          interval: Duration.seconds(1),
          stage: (names) => {
            asked.push(names.join(" "))
            mixed.told = false
            return Effect.tap(stage(names), () => Effect.sync(() => looks++))
          },
          settings: Effect.succeed(new Map()),
          available: () => {},
          poke: Latch.makeUnsafe(false),
          stale: { settings: false }
        })
      )
      for (let second = 0; second < 60; second++) {
        yield* Pglite.settle
        assert.isTrue(mixed.told)
        yield* Pglite.advance("1 second")
      }
      assert.isAtLeast(looks, 60)
      assert.strictEqual(asked.filter((names) => names === "mixed plain").length, 2)
      assert.strictEqual(asked.filter((names) => names === "plain").length, asked.length - 2)
    }).pipe(Effect.provide(Tables))
  )
})

describe("the producer of a limited queue", () => {
  it.effect("asks less and less often while all of many partitions are at their limits", () =>
    Effect.gen(function* () {
      const engine = yield* engineWith({ limited: { limit: 5, rate: { limit: 1, period: "1 day" } } })
      engine.registered = true
      const [queue] = [...engine.queues.values()]
      if (queue === undefined) return yield* Effect.die("there is a queue")
      let claims = 0
      yield* Effect.forkScoped(
        Producer.run(engine, queue, () =>
          Effect.sync(() => {
            claims++
            return { rows: [], retryIn: Duration.millis(100) }
          })
        )
      )
      yield* Pglite.advance("1 minute")
      assert.isAtLeast(claims, 60)
      assert.isAtMost(claims, 80)
    }).pipe(Effect.provide(Tables))
  )
})

class Undecided extends Worker.Service<Undecided>()("Undecided", { args: {}, backoff: () => Effect.never }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.fail("no")))
}

describe("a backoff that does not answer", () => {
  it.effect("holds the job for five seconds, and then the default is taken", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const id = yield* inserted(Undecided.enqueue({}))
      yield* Pglite.advance("4 seconds")
      assert.strictEqual((yield* jobs.get(id)).state, "executing")
      assert.strictEqual((yield* jobs.status).queues["default"]?.running, 1)
      yield* Pglite.advance("1 second")
      const job = yield* jobs.get(id)
      assert.deepInclude(job, { state: "retryable", attempt: 1 })
      assert.include(job.errors[0]?.message, "its backoff could not be used")
      assert.include(job.errors[0]?.message, "did not answer within 5 seconds")
      assert.strictEqual((yield* jobs.status).queues["default"]?.running, 0)
    }).pipe(
      Effect.provide(
        Jobs.layer({ queues: { default: 5 }, workers: [Undecided.layer] }).pipe(Layer.provideMerge(Virtual))
      )
    )
  )
})
