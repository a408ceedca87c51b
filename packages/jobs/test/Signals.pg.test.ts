import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Effect, Queue } from "effect"
import * as Database from "../src/internal/database.ts"
import { channel, Signals } from "../src/internal/signals.ts"

/** What listeners hear when jobs of these queues become available together. */
const heard = Effect.fnUntraced(function* (queues: ReadonlyArray<string>) {
  const sql = yield* PgClient.PgClient
  const database = yield* Database.make(sql, "jobs", "database")
  const notifications = yield* sql.listen(channel(database))
  const signals = new Signals(database, "test")
  for (const queue of queues) signals.add({ _tag: "Jobs", queue })
  signals.add({ _tag: "Cancel" })
  yield* signals.flush
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
