import { Worker } from "@coppice/jobs"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import type { ClaimedRow } from "../src/internal/claim.ts"
import { Engine } from "../src/internal/engine.ts"
import { Hub } from "../src/internal/hub.ts"
import * as Settler from "../src/internal/settler.ts"

class Task extends Worker.Service<Task>()("Task", { args: {} }) {}

const row = (id: number): ClaimedRow => ({
  id,
  lease: 1,
  worker: "Task",
  args: {},
  args_version: 1,
  attempt: 1,
  max_attempts: 20,
  priority: 0,
  tags: [],
  meta: {},
  inserted_at: new Date(0),
  scheduled_at: new Date(0),
  attempted_at: new Date(0),
  queued_at: new Date(0),
  trace: null,
  cron_name: null,
  cron_at: null,
  unique: false
})

const away = new SqlError({
  reason: new ConnectionError({ cause: new Error("away"), message: "away", operation: "query" })
})

describe("verdicts", () => {
  it.effect("of a time that was given up are not written, and do not take those of the next time along", () =>
    Effect.gen(function* () {
      const context = yield* Layer.build(Task.toLayer(Effect.succeed(() => Effect.void)))
      const services = yield* Effect.context<never>()
      const engine = new Engine({
        name: "node",
        queues: { default: { limit: 10 } },
        workers: new Map([["Task", Context.get(context, Task)]]),
        hub: new Hub(services),
        services
      })
      engine.registered = true
      const queue = engine.queues.get("default") ?? assert.fail()
      const written: Array<number> = []
      let reachable = false
      yield* Effect.forkScoped(
        Settler.run(engine, {
          complete: (ids) =>
            Effect.suspend(() => {
              if (!reachable) return Effect.fail(away)
              written.push(...ids)
              return Effect.succeed(ids)
            }),
          settle: () => Effect.succeed([]),
          present: () => Effect.succeed(new Set<number>())
        }),
        { startImmediately: true }
      )
      engine.take(queue, [row(1)], engine.epoch)
      yield* TestClock.adjust(10)
      assert.lengthOf(engine.unwritten, 1)
      // The node gives up, and comes back, while the settler waits to try again.
      engine.fence()
      engine.registered = true
      engine.take(queue, [row(2)], engine.epoch)
      reachable = true
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(written, [2])
      assert.strictEqual(engine.held.size, 0)
      assert.strictEqual(engine.unwritten.length, 0)
    }).pipe(Effect.scoped)
  )
})
