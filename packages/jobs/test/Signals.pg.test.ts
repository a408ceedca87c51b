import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Queue } from "effect"
import * as Database from "../src/internal/database.ts"
import { channel, Signals } from "../src/internal/signals.ts"
import { task } from "./fixtures/liveNode.ts"

/** What listeners hear when jobs of these queues become available together. */
const heard = (queues: ReadonlyArray<string>) =>
  during((signals) => {
    for (const queue of queues) signals.add({ _tag: "Jobs", queue })
    signals.add({ _tag: "Cancel" })
    return signals.flush
  })

/** What listeners hear meanwhile. */
const during = Effect.fnUntraced(function* <R>(act: (signals: Signals) => Effect.Effect<void, unknown, R>) {
  const sql = yield* PgClient.PgClient
  const database = yield* Database.make(sql, "jobs", "database")
  const notifications = yield* sql.listen(channel(database))
  const signals = new Signals(database, "test")
  yield* act(signals)
  // Arrives in any case, and behind what was sent before.
  yield* signals.send({ from: "test", echo: "end" })
  const messages: Array<unknown> = []
  while (true) {
    const { payload } = yield* Queue.take(notifications)
    const message: unknown = JSON.parse(payload)
    if (typeof message === "object" && message !== null && "echo" in message) return messages
    messages.push(message)
  }
}, Effect.scoped)

/** As many names, all different and as long as a queue's name may be. */
const names = (count: number, character: string) =>
  Array.from({ length: count }, (_, n) => `${n}`.padStart(3, "0") + character.repeat(124))

layer(Postgres.layerTestDatabase({ pool: { maxConnections: 2 } }), { excludeTestServices: true })(
  "a notification",
  (it) => {
    for (const [what, character, most] of [
      ["plain characters", "a", 61],
      ["characters of four bytes", "\u{1F333}", 15],
      ["characters that are escaped", "\u0001", 10]
    ] as const) {
      it.effect(`names the queues one by one while it can, and is sent however long names of ${what} are`, () =>
        Effect.gen(function* () {
          for (let count = 1; count <= most + 3; count++) {
            const queues = names(count, character)
            assert.deepStrictEqual(yield* heard(queues), [
              { from: "test", cancel: true, jobs: count <= most ? queues : ["*"] }
            ])
          }
        })
      )
    }
  }
)

layer(
  Jobs.layerClient.pipe(
    Layer.provideMerge(
      Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 10 } })
    )
  ),
  { excludeTestServices: true }
)("notifications", (it) => {
  it.effect("of many commits at once are few, and no commit waits for one", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const total = 400
      const messages = yield* during(() =>
        Effect.forEach(
          Array.from({ length: total }, () => task(0)),
          jobs.enqueue,
          { concurrency: 8, discard: true }
        )
      )
      assert.isAbove(messages.length, 0)
      // With one in each of these transactions, there would be as many.
      assert.isBelow(messages.length, total / 2)
    })
  )
})
