import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { inserted } from "./fixtures/engine.ts"
import { apart, eventually, liveNode, type Run, task } from "./fixtures/liveNode.ts"
import { node } from "./fixtures/processes.ts"

const Database = Jobs.layerClient.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 3 } })
  )
)

describe("a handler that stops the event loop of its node for longer than its lease", () => {
  it.live("has its job run elsewhere; what its node does later is not written, and both nodes say so", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const jobs = yield* Jobs.Jobs
      const server = yield* Postgres.Server
      const blocked = yield* node(Redacted.value(server.url()), { BLOCK: "2000" }, "blocking-process.ts")
      yield* blocked.ready
      const said = (line: string | RegExp) =>
        blocked.lines.filter((each) => (typeof line === "string" ? each === line : line.test(each))).length
      // Where it runs without trouble it is still running when the blocked node wakes up.
      const id = yield* inserted(jobs.enqueue(task(2_500)))
      yield* eventually(
        "it blocks",
        Effect.sync(() => said("blocks")),
        (n) => n === 1
      )
      const runs: Array<Run> = []
      const other = yield* liveNode("other", server.url(), runs, { lease: "1200 millis", queues: { default: 1 } })
      yield* eventually(
        "it runs elsewhere",
        Effect.sync(() => runs.length),
        (n) => n === 1
      )
      assert.strictEqual(said("goes on"), 0)
      assert.deepInclude(
        other.events.find(({ _tag }) => _tag === "Rescued"),
        { id, node: "blocked", to: "available" }
      )
      yield* eventually(
        "the blocked node says what it has lost",
        Effect.sync(() => said(`log Task ${id} is not this node's any more: what it did was not written`)),
        (n) => n === 1
      )
      assert.strictEqual(said("goes on"), 1)
      yield* eventually(
        "it says why",
        Effect.sync(() => said(/^log This node (has not been heard of for|was declared dead)/)),
        (n) => n === 1
      )
      assert.deepInclude(yield* jobs.get(id), { state: "executing", attempt: 2, rescues: 1, lease: 3 })
      // It is a node again, under another id, and works; what the other one does counts.
      const next = yield* inserted(jobs.enqueue(task(0)))
      for (const each of [next, id]) {
        yield* eventually("it is done", jobs.get(each), ({ state }) => state === "completed")
      }
      assert.strictEqual(said("blocks"), 1)
      const { errors, ...done } = yield* jobs.get(id)
      assert.deepInclude(done, { attempt: 2, rescues: 1, lease: 3 })
      assert.deepStrictEqual(
        errors.map(({ kind, node }) => [kind, node]),
        [["node lost", "blocked"]]
      )
      assert.deepStrictEqual(
        runs.map(({ how, job, node }) => [node, job, how]),
        [["other", id, "succeeded"]]
      )
      assert.deepStrictEqual(
        yield* sql`
          select (select count(*) from jobs.jobs)::int4 as jobs, (select count(*) from jobs.jobs_history)::int4 as ended`,
        [{ jobs: 0, ended: 2 }]
      )
    }).pipe(apart(Database))
  )
})
