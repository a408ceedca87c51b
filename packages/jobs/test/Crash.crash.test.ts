import { Jobs, Migrations, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Console, Effect, Layer, Random, Redacted, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { eventually, isAlive, node, type Node } from "./fixtures/processes.ts"

/** How many jobs; more take longer, and meet more of everything. */
const total = Number(process.env["COPPICE_CRASH_JOBS"] ?? 3_000)

/** How many are enqueued per round of chaos. */
const rounds = Math.max(12, Math.ceil(total / 1_000))

class Ledger extends Worker.Service<Ledger>()("Ledger", {
  queue: "ledger",
  maxAttempts: 10_000,
  args: { millis: Schema.Finite, failures: Schema.Int }
}) {}

/** A server of its own, because it is killed. */
const Server = Postgres.layerWith({ temporary: true, pool: { maxConnections: 4 } }).pipe(
  Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({})))
)
const Enqueueing = Jobs.layerClient.pipe(Layer.provideMerge(Server))

/** A statement of this test may be the victim of what it does to the server. */
const insist = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.retry(effect, { schedule: Schedule.spaced("50 millis"), times: 200 })

describe("jobs under kill -9, frozen processes, lost connections and a server that crashes", () => {
  it.live(
    "all are done, each ends once, and a frozen node that wakes up changes nothing",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const server = yield* Postgres.Server
        const url = Redacted.value(server.url())
        yield* Migrations.run
        yield* sql`create table ledger (job bigint not null, lease bigint not null, pid int not null)`
        const start = (index: number) => node(url, { NODE_NAME: `node ${index}` })
        const nodes: Array<Node> = yield* Effect.forEach([0, 1, 2], start)
        yield* Effect.forEach(nodes, ({ ready }) => ready)

        const counts = { kills: 0, freezes: 0, terminated: 0, restarts: 0 }
        let lost = 0
        const account = ({ lines }: Node) => {
          lost += lines.filter((line) => line.startsWith("lost ")).length
          // A node may fail to start while there is no server; one that runs goes on.
          if (lines.includes("ready"))
            assert.deepStrictEqual(
              lines.filter((line) => line.startsWith("failed ")),
              []
            )
        }
        const respawn = Effect.fnUntraced(function* (index: number) {
          const before = nodes[index]
          if (before !== undefined) account(before)
          nodes[index] = yield* start(index)
        })

        const frozen = new Set<Node>()
        for (let round = 0; round < rounds; round++) {
          const longest = round % 4 === 1 ? 1_000 : 60
          const args = yield* Effect.replicateEffect(
            Effect.all({
              millis: Random.nextIntBetween(0, longest),
              failures: Effect.map(Random.next, (random) => (random < 0.1 ? 1 : 0))
            }),
            Math.ceil(total / rounds)
          )
          // If the answer to a commit is lost there are more jobs than were asked for, and all of them count.
          yield* insist(Ledger.enqueueMany(args))
          yield* Effect.sleep("300 millis")
          // One that is at work, so that it has something to lose.
          const working = nodes.filter(
            (node) => node.lines.includes("ready") && isAlive(node.child) && !frozen.has(node)
          )
          const victim = working[yield* Random.nextIntBetween(0, Math.max(0, working.length - 1))]
          switch (round % 4) {
            case 0: {
              if (victim === undefined) break
              counts.kills++
              yield* victim.signal("SIGKILL")
              yield* victim.ended
              yield* respawn(nodes.indexOf(victim))
              break
            }
            case 1: {
              if (victim === undefined) break
              counts.freezes++
              frozen.add(victim)
              yield* victim.signal("SIGSTOP")
              // Others take over what it has; then it wakes up, and goes on where it was.
              yield* Effect.forkScoped(
                Effect.sleep("4 seconds").pipe(
                  Effect.andThen(victim.signal("SIGCONT")),
                  Effect.andThen(Effect.sleep("1 second")),
                  Effect.andThen(Effect.sync(() => frozen.delete(victim)))
                )
              )
              break
            }
            case 2: {
              const [ended] = yield* Effect.orElseSucceed(
                sql<{ readonly n: number }>`
                  select count(*) filter (where pg_terminate_backend(pid))::int4 as n
                    from (select pid from pg_stat_activity where application_name like 'coppice%' order by random() limit 6) v`,
                () => []
              )
              counts.terminated += ended?.n ?? 0
              break
            }
            default: {
              counts.restarts++
              // When a backend dies like that, the server ends all others and recovers from its log.
              const [backend] = yield* insist(sql<{ readonly pid: number }>`
                select pid from pg_stat_activity where application_name like 'coppice%' order by random() limit 1`)
              if (backend !== undefined) process.kill(backend.pid, "SIGKILL")
            }
          }
          // The pace of chaos, beside work that takes real time.
          yield* Effect.sleep("500 millis")
        }
        yield* Effect.repeat(
          Effect.sync(() => frozen.size),
          {
            until: (size) => size === 0,
            schedule: Schedule.spaced("50 millis")
          }
        )
        for (let index = 0; index < nodes.length;) {
          const { child, lines } = nodes[index] ?? assert.fail()
          yield* eventually("a node is ready or has ended", () => lines.includes("ready") || !isAlive(child))
          if (isAlive(child)) index++
          // It began while there was no server.
          else yield* respawn(index)
        }

        const left = insist(sql<{ readonly n: number }>`select count(*)::int4 as n from jobs.jobs`)
        yield* Effect.repeat(left, {
          until: ([row]) => row?.n === 0,
          schedule: Schedule.spaced("100 millis"),
          times: 6_000
        })
        yield* Effect.forEach(nodes, ({ signal }) => signal("SIGTERM"))
        yield* Effect.forEach(nodes, ({ ended }) => ended)
        for (const node of nodes) {
          assert.include(node.lines, "stopped")
          account(node)
        }

        const [found] = yield* sql<{
          readonly jobs: number
          readonly ended: number
          readonly completed: number
          readonly unrun: number
          readonly later: number
          readonly runs: number
          readonly rescues: number
        }>`
          select (select count(*) from jobs.jobs)::int4 as jobs,
                 (select count(*) from jobs.jobs_history)::int4 as ended,
                 (select count(distinct id) from jobs.jobs_history where state = 'completed')::int4 as completed,
                 (select count(*) from jobs.jobs_history h
                   where not exists (select from ledger l where l.job = h.id and l.lease = h.lease))::int4 as unrun,
                 (select count(*) from ledger l join jobs.jobs_history h on h.id = l.job where l.lease > h.lease)::int4 as later,
                 (select count(*) from ledger)::int4 as runs,
                 (select sum(rescues) from jobs.jobs_history)::int4 as rescues`
        if (process.env["COPPICE_CRASH_JOBS"] !== undefined) yield* Console.log({ ...counts, lost, ...found })
        assert.isDefined(found)
        assert.isAtLeast(found?.ended ?? 0, total)
        assert.deepInclude(found, { jobs: 0, completed: found?.ended, unrun: 0, later: 0 })
        assert.isAbove(lost, 0)
        assert.isAbove(found?.rescues ?? 0, 0)
      }).pipe(Effect.scoped, Effect.provide(Enqueueing)),
    600_000
  )
})
