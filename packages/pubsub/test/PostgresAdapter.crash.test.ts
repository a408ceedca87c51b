import { Postgres } from "@coppice/postgres"
import { Migrations } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Redacted, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import { assertNoSilentLoss, eventually, numbers } from "./fixtures/nodes.ts"
import { nodeProcess } from "./fixtures/processes.ts"

/** A server of its own, because it is killed. */
const Server = Postgres.layerWith({ temporary: true, pool: { maxConnections: 2 } }).pipe(
  Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({})))
)

/** A statement of this test may be the victim of what it does to the server. */
const insist = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.retry(effect, { schedule: Schedule.spaced("50 millis"), times: 200 })

/** The pace of chaos, beside processes that run in real time. */
const meanwhile = Effect.sleep("400 millis")

describe("broadcasts under kill -9, frozen processes, lost connections and a server that crashes", () => {
  it.live(
    "are heard once and in order on every node, where something is missing a gap was told, and nothing is left behind",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const server = yield* Postgres.Server
        const url = Redacted.value(server.url())
        yield* Migrations.run
        yield* sql`create table told (id bigint generated always as identity primary key, node text not null)`
        const victims = (limit: number) =>
          sql<{ readonly pid: number }>`
            select pid from pg_stat_activity where application_name like 'coppice pubsub%' order by random() limit ${limit}`
        const [steady, frozen, killed] = yield* Effect.all([nodeProcess(url), nodeProcess(url), nodeProcess(url)])
        yield* Effect.forEach([steady, frozen, killed], ({ ready }) => ready)
        yield* Effect.forEach([steady, frozen, killed], ({ signal }) => signal("SIGUSR2"))
        yield* eventually("all have heard all", () =>
          [steady, frozen, killed].every(({ heard }) =>
            [steady, frozen, killed].every(({ id }) => numbers(heard(id())).length > 10)
          )
        )

        yield* insist(sql`
          select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'coppice pubsub%'`)
        yield* meanwhile

        yield* frozen.signal("SIGSTOP")
        yield* killed.signal("SIGKILL")
        const late = yield* nodeProcess(url)
        yield* meanwhile
        // What the server has kept for it meanwhile it may still hear, unless its connection is ended.
        yield* frozen.signal("SIGCONT")
        yield* late.ready
        yield* late.signal("SIGUSR2")
        yield* meanwhile

        yield* frozen.signal("SIGSTOP")
        // When a backend dies like that, the server ends all others and recovers from its log.
        for (const { pid } of yield* insist(victims(1))) process.kill(pid, "SIGKILL")
        yield* meanwhile
        yield* insist(sql`select 1`)
        yield* frozen.signal("SIGCONT")
        yield* meanwhile

        for (const { pid } of yield* insist(victims(2))) yield* insist(sql`select pg_terminate_backend(${pid})`)
        yield* meanwhile

        const nodes = [steady, frozen, late]
        yield* Effect.forEach(nodes, ({ signal }) => signal("SIGUSR2"))
        yield* eventually("all are quiet", () => nodes.every(({ sent }) => sent() !== undefined))
        // A sign of life tells what is missing at the end.
        const settled = () =>
          nodes.every(({ heard }) =>
            nodes.every((sender) => {
              const messages = heard(sender.id())
              return numbers(messages).at(-1) === (sender.sent() ?? 0) - 1 || messages.at(-1)?._tag === "Gap"
            })
          )
        yield* eventually("all know of all", settled)
        yield* Effect.forEach(nodes, ({ signal }) => signal("SIGTERM"))
        yield* Effect.forEach(nodes, ({ ended }) => ended)

        for (const receiver of [steady, frozen, killed]) {
          for (const sender of [steady, frozen, killed]) {
            const heard = receiver.heard(sender.id())
            // Whoever was killed does not know the end, and nobody knows its own.
            const known = sender.sent() !== undefined && receiver !== killed
            assertNoSilentLoss(heard, known ? (sender.sent() ?? 0) : (numbers(heard).at(-1) ?? 0) + 1)
          }
          assert.isAbove(receiver.gaps(), 0, "its connections were ended")
        }
        for (const sender of [steady, frozen]) assertOrdered(numbers(late.heard(sender.id())))
        assertNoSilentLoss(steady.heard(late.id()), late.sent() ?? 0)
        for (const { last } of nodes) assert.strictEqual(last(), "stopped")
        assert.deepStrictEqual(yield* victims(10), [])
      }).pipe(Effect.scoped, Effect.provide(Server)),
    120_000
  )
})

/** It began in the middle. */
const assertOrdered = (numbers: ReadonlyArray<number>): void => {
  assert.isAbove(numbers.length, 0)
  for (const [index, n] of numbers.entries()) if (index > 0) assert.isAbove(n, numbers[index - 1] ?? 0)
}
