import { Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { node, type Node } from "./fixtures/processes.ts"

interface Fired {
  readonly jobs: number
  readonly instants: number
  readonly early: number
  /** Seconds between the first and the last, both included. */
  readonly span: number
}

const fired = (name: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const [row] = yield* sql<Fired>`
      select count(*)::int as jobs, count(distinct cron_at)::int as instants,
             (count(*) filter (where cron_at > inserted_at))::int as early,
             coalesce(extract(epoch from max(cron_at) - min(cron_at))::int + 1, 0) as span
        from jobs.jobs where cron_name = ${name}`
    if (row === undefined) throw new Error("count(*) answers always")
    return row
  })

/** Waits in real time, because other processes do not know the test clock. */
const until = (name: string, jobs: number) =>
  Effect.gen(function* () {
    while ((yield* fired(name)).jobs < jobs) yield* Effect.sleep("20 millis")
  }).pipe(
    Effect.timeoutOrElse({
      duration: "40 seconds",
      orElse: () => Effect.die(new Error(`${name} did not fire ${jobs} times`))
    })
  )

describe("the crontab under kill -9 and frozen processes", () => {
  it.live(
    "makes one job of each instant, and of each start of the cluster",
    () =>
      Effect.gen(function* () {
        yield* Migrations.run
        const url = Redacted.value((yield* Postgres.Server).url())
        const start = node(url, {}, "cron-process.ts")
        const nodes: Array<Node> = yield* Effect.replicateEffect(start, 3)
        const ready = Effect.suspend(() => Effect.forEach(nodes, (node) => node.ready, { discard: true }))
        yield* ready
        yield* until("seconds", 2)
        for (let round = 0; round < 4; round++) {
          const victim = (round * 2) % 3
          const killed = nodes[victim]
          const frozen = nodes[(victim + 1) % 3]
          if (killed === undefined || frozen === undefined) throw new Error("there are three nodes")
          yield* frozen.signal("SIGSTOP")
          yield* killed.signal("SIGKILL")
          nodes[victim] = yield* start
          yield* ready
          yield* Effect.sleep("300 millis")
          yield* frozen.signal("SIGCONT")
          yield* Effect.sleep("700 millis")
        }
        assert.strictEqual((yield* fired("reboot")).jobs, 1)

        for (const { signal } of nodes) yield* signal("SIGKILL")
        for (const { ended } of nodes) yield* ended
        yield* Effect.sleep("1500 millis")
        nodes.splice(0, 3, ...(yield* Effect.all([start, start])))
        yield* until("reboot", 2)
        const { jobs } = yield* fired("seconds")
        yield* until("seconds", jobs + 2)
        assert.strictEqual((yield* fired("reboot")).jobs, 2)
        const all = yield* fired("seconds")
        assert.deepStrictEqual(all, { jobs: all.span, instants: all.span, early: 0, span: all.span })
      }).pipe(Effect.provide(Postgres.layerTestDatabase(), { local: true }), Effect.scoped),
    120_000
  )
})
