/** The shortest way from one session of Postgres to another: a notification, which no table remembers. */
import { Effect, Queue } from "effect"
import { session } from "./Database.ts"
import type { Implementation, SignalQueue } from "./Implementation.ts"

export const notify: Implementation<SignalQueue> = {
  name: "one NOTIFY",
  configuration: "select pg_notify on one session, LISTEN on another; nothing is stored",
  open: ({ database }) =>
    Effect.gen(function* () {
      const connection = yield* session(database)
      return {
        enqueue: (job) => Effect.orDie(connection.query("select pg_notify('bench', $1)", [String(job)])),
        work: (started) =>
          Effect.gen(function* () {
            const listener = yield* session(database)
            const notifications = yield* Effect.orDie(listener.listen("bench"))
            yield* Queue.take(notifications).pipe(
              Effect.map(({ payload }) => started(Number(payload))),
              Effect.forever,
              Effect.forkScoped
            )
          })
      }
    })
}
