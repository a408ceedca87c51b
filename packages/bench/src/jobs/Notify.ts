/** The shortest way from one session of Postgres to another: a notification, which no table remembers. */
import { Effect, Queue } from "effect"
import { inOrder, session } from "./Database.ts"
import type { Implementation, SignalQueue } from "./Implementation.ts"

const notifying = (
  name: string,
  configuration: string,
  settings: ReadonlyArray<string>
): Implementation<SignalQueue> => ({
  name,
  configuration,
  open: ({ database }) =>
    Effect.gen(function* () {
      const connection = yield* session(database)
      yield* inOrder(connection, settings)
      return {
        enqueue: (job) => Effect.orDie(connection.query("select pg_notify('bench', $1)", [String(job)])),
        work: (started) =>
          Effect.gen(function* () {
            const listener = yield* session(database)
            const notifications = yield* Effect.orDie(listener.listen("bench"))
            yield* Queue.takeAll(notifications).pipe(
              Effect.map((all) => {
                for (const { payload } of all) started(Number(payload))
              }),
              Effect.forever,
              Effect.forkScoped
            )
          })
      }
    })
})

export const notify: Implementation<SignalQueue> = notifying(
  "one NOTIFY",
  "select pg_notify on one session, LISTEN on another; nothing is stored",
  []
)

/** The same, which does not wait for the disk either. */
export const notifyQuickly: Implementation<SignalQueue> = notifying(
  "one NOTIFY, not flushed",
  "the same with synchronous_commit off",
  ["set synchronous_commit = off"]
)
