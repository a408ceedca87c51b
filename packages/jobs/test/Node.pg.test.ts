import { assert, describe, it } from "@effect/vitest"
import { type Job, Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { Tree } from "@coppice/supervision"
import { Duration, Effect, Layer, Stream } from "effect"
import type { JobEvent } from "../src/JobEvent.ts"
import { inserted } from "./fixtures/engine.ts"
import { apart, eventually, liveNode, type Run, task } from "./fixtures/liveNode.ts"
import { clear, whileOpen } from "./fixtures/races.ts"

const Database = Jobs.layerClient.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 6 } })
  )
)

const setUp = Effect.gen(function* () {
  const sql = yield* clear
  const jobs = yield* Jobs.Jobs
  const server = yield* Postgres.Server
  const runs: Array<Run> = []
  const at = (queue: string) => runs.filter(({ job }) => queues.get(job) === queue)
  const queues = new Map<number, string>()
  const enqueue = Effect.fnUntraced(function* (millis?: number, options?: Parameters<typeof task>[1]) {
    const id = yield* inserted(jobs.enqueue(task(millis, options)))
    queues.set(id, options?.queue ?? "default")
    return id
  })
  return {
    sql,
    jobs,
    runs,
    enqueue,
    start: (name: string, options: Parameters<typeof liveNode>[3] = {}) => liveNode(name, server.url(), runs, options),
    begun: (n: number, queue = "default") =>
      eventually(
        `${n} jobs of ${queue} have begun`,
        Effect.sync(() => at(queue).length),
        (begun) => begun === n
      ),
    at,
    completed: (id: Job.JobId, within?: number) =>
      eventually(`job ${id} is completed`, jobs.get(id), ({ state }) => state === "completed", within)
  }
})

/** A tree of its own, without the noise of what is killed. */
const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.scoped(effect).pipe(Effect.provide(Tree.layer), apart(Database))

/** For what must not happen, as long as it takes elsewhere many times over. */
const aWhile = Effect.sleep("200 millis")

const tagged = (events: ReadonlyArray<JobEvent>, ...tags: ReadonlyArray<string>) =>
  events.filter(({ _tag }) => tags.includes(_tag))

describe.concurrent("a node", () => {
  describe("that starts later", () => {
    it.live("does as it was said of its queues before", () =>
      alone(
        Effect.gen(function* () {
          const { at, begun, enqueue, jobs, start } = yield* setUp
          yield* jobs.pause("paused")
          yield* jobs.scale("scaled", 1)
          yield* jobs.scale("elsewhere", 1, { node: "two" })
          yield* jobs.limit("limited", { global: 2 })
          const names = ["paused", "scaled", "elsewhere", "limited"]
          for (let n = 0; n < 4; n++) for (const queue of names) yield* enqueue(60_000, { queue })
          const options = { queues: Object.fromEntries(names.map((name) => [name, 3])) }
          const one = yield* start("one", options)
          yield* begun(1, "scaled")
          yield* begun(3, "elsewhere")
          yield* begun(2, "limited")
          yield* aWhile
          const counts = () => names.map((queue) => at(queue).length)
          assert.deepStrictEqual(counts(), [0, 1, 3, 2])
          assert.deepStrictEqual(
            Object.entries((yield* one.jobs.status).queues).map(([name, { limit, paused }]) => [name, limit, paused]),
            [
              ["paused", 3, true],
              ["scaled", 1, false],
              ["elsewhere", 3, false],
              ["limited", 3, false]
            ]
          )
          // The next one as well, which has its word of "elsewhere", and no room left in "limited".
          const two = yield* start("two", options)
          yield* begun(2, "scaled")
          yield* begun(4, "elsewhere")
          yield* aWhile
          assert.deepStrictEqual(counts(), [0, 2, 4, 2])
          assert.strictEqual((yield* two.jobs.status).queues["elsewhere"]?.limit, 1)
          yield* jobs.resume("paused")
          yield* begun(4, "paused")
        })
      )
    )

    it.live("starts nothing of queues that were paused before, at no time", () =>
      alone(
        Effect.gen(function* () {
          const { jobs, runs, start } = yield* setUp
          // The more there are, the longer it takes to read what was said of them.
          const names = Array.from({ length: 30 }, (_, n) => `queue ${n}`)
          for (const queue of names) yield* jobs.pause(queue)
          yield* jobs.enqueueMany(names.map((queue) => task(0, { queue })))
          const queues = Object.fromEntries(names.map((name) => [name, 3]))
          for (let round = 0; round < 5; round++) {
            yield* Effect.scoped(Effect.andThen(start("one", { queues, connections: 8 }), aWhile))
            assert.deepStrictEqual(runs, [])
          }
          for (const { attempt, lease } of yield* jobs.list()) assert.deepStrictEqual([attempt, lease], [0, 0])
        })
      )
    )

    it.live("under a name that was paused stays paused, while others go on", () =>
      alone(
        Effect.gen(function* () {
          const { begun, enqueue, jobs, runs, start } = yield* setUp
          const [one, two] = [yield* start("one"), yield* start("two")]
          yield* jobs.pause("default", { node: "one" })
          const paused = (node: Jobs.Shape) =>
            Effect.map(node.status, ({ queues }) => queues["default"]?.paused === true)
          yield* eventually("one is paused", paused(one.jobs), (yes) => yes)
          assert.isFalse(yield* paused(two.jobs))
          // More than one node has room for.
          for (let n = 0; n < 8; n++) yield* enqueue(60_000)
          yield* begun(5)
          yield* one.stop
          const again = yield* start("one")
          yield* eventually("it has looked", paused(again.jobs), (yes) => yes)
          yield* aWhile
          assert.deepStrictEqual(new Set(runs.map(({ node }) => node)), new Set(["two"]))
          assert.lengthOf(runs, 5)
          assert.deepStrictEqual(
            (yield* jobs.queues).map(({ pausedOn }) => pausedOn),
            [["one"]]
          )
          yield* jobs.resume("default", { node: "one" })
          yield* begun(8)
          assert.lengthOf(
            runs.filter(({ node }) => node === "one"),
            3
          )
        })
      )
    )
  })

  describe("of which a loop is killed", () => {
    const loops = ["heartbeat", "rescuer", "settler", "notifier", "listener", "poll", "maintenance", "cron"]

    it.live("goes on: what runs ends once, and new jobs run, whichever loop it is", () =>
      alone(
        Effect.gen(function* () {
          const { at, completed, enqueue, jobs, runs, sql, start } = yield* setUp
          const one = yield* start("one", { queues: { default: 30 }, lease: "4 seconds" })
          const all: Array<Job.JobId> = []
          for (const path of [...loops.map((loop) => `jobs/${loop}`), "jobs/queues/default", "jobs/queues"]) {
            const running = [yield* enqueue(150), yield* enqueue(150)]
            yield* eventually(
              `jobs run before ${path} is killed`,
              Effect.sync(() => running.every((id) => runs.some(({ job }) => job === id))),
              (yes) => yes
            )
            const before = yield* Tree.get(path)
            yield* Tree.kill(path)
            const next = [yield* enqueue(0), yield* enqueue(0), yield* enqueue(0, { scheduleIn: 50 })]
            // What a claim brought that was killed with its queue is found after ten seconds.
            for (const id of [...running, ...next]) yield* completed(id, 20_000)
            all.push(...running, ...next)
            const after = yield* eventually(`${path} is back`, Tree.get(path), ({ status }) => status === "running")
            assert.strictEqual(after.restarts, before.restarts + 1, path)
            assert.deepInclude(yield* Tree.get("jobs"), { status: "running", restarts: 0 })
          }
          for (const record of yield* jobs.list({ id: all }, { limit: 100 })) {
            assert.deepInclude(record, { state: "completed", attempt: 1, rescues: 0, errors: [] })
          }
          assert.lengthOf(runs, all.length)
          assert.lengthOf(at("default"), new Set(runs.map(({ job }) => job)).size)
          assert.deepStrictEqual(tagged(one.events, "LeaseLost", "Rescued", "HandedBack"), [])
          assert.lengthOf(tagged(one.events, "Completed"), all.length)
          // Each still does what it is for.
          yield* eventually("it listens", one.jobs.status, ({ wakeUp }) => wakeUp === "listen")
          yield* one.jobs.cron.create({ name: "tick", expression: "* * * * * *", job: task(0) })
          yield* eventually(
            "cron fires",
            Effect.sync(() => tagged(one.events, "CronFired").length),
            (n) => n > 0,
            5_000
          )
          yield* one.jobs.cron.delete("tick")
          const [orphan] = yield* sql<{ readonly id: Job.JobId }>`
            insert into jobs.jobs (state, queue, worker, args, attempt, lease, leased_by)
            values ('executing', 'default', 'Task', '{"millis": 0, "stubborn": false}', 1, 1, gen_random_uuid())
            returning id::float8 as id`
          yield* completed(orphan?.id ?? assert.fail(), 5_000)
          assert.isBelow(Duration.toMillis((yield* one.jobs.status).heartbeatAge ?? Duration.infinity), 2_000)
        })
      )
    )

    it.live("writes what had ended and was not written yet", () =>
      alone(
        Effect.gen(function* () {
          const { begun, completed, enqueue, jobs, runs, sql, start } = yield* setUp
          yield* start("one", { lease: "4 seconds" })
          const id = yield* enqueue(200)
          yield* begun(1)
          yield* whileOpen(
            sql,
            sql`select from jobs.jobs for update`,
            Effect.gen(function* () {
              yield* eventually(
                "it has ended",
                Effect.sync(() => runs[0]?.how),
                (how) => how === "succeeded"
              )
              yield* aWhile
              yield* Tree.kill("jobs/settler")
            })
          )
          yield* completed(id)
          assert.deepInclude(yield* jobs.get(id), { attempt: 1, lease: 1, rescues: 0 })
          assert.lengthOf(runs, 1)
        })
      )
    )

    it.live("keeps its leases beyond the time that they last, and others are still told of new jobs", () =>
      alone(
        Effect.gen(function* () {
          const { completed, enqueue, runs, start } = yield* setUp
          const ttl = 2_000
          const one = yield* start("one", { queues: { default: 5 }, lease: ttl })
          const other = yield* Effect.provide(
            start("other", { queues: { other: 5 }, lease: ttl, pollInterval: "1 minute" }),
            Tree.layer
          )
          yield* eventually("it listens", other.jobs.status, ({ wakeUp }) => wakeUp === "listen")
          const before = (yield* one.jobs.status).node?.id
          const long = yield* enqueue(1.5 * ttl)
          // As often as a supervisor lets children crash in a minute, almost.
          for (let n = 0; n < 3; n++) {
            for (const loop of ["heartbeat", "rescuer", "notifier"]) {
              yield* eventually(`${loop} runs`, Tree.get(`jobs/${loop}`), ({ status }) => status === "running")
              yield* Tree.kill(`jobs/${loop}`)
            }
            yield* completed(yield* inserted(one.jobs.enqueue(task(0, { queue: "other" }))), 5_000)
          }
          yield* completed(long)
          assert.lengthOf(runs, 4)
          assert.strictEqual((yield* one.jobs.status).node?.id, before)
          for (const { events } of [one, other]) assert.deepStrictEqual(tagged(events, "LeaseLost", "Rescued"), [])
        })
      )
    )
  })

  describe("tells", () => {
    it.live("of a rescue when it is committed, not before", () =>
      alone(
        Effect.gen(function* () {
          const { completed, sql, start } = yield* setUp
          // A rescue commits when nobody has this lock.
          yield* sql.unsafe(`
            create function jobs.hold() returns trigger language plpgsql as $$
            begin
              perform pg_advisory_xact_lock(4711);
              return null;
            end $$`)
          yield* sql.unsafe(`
            create constraint trigger hold after update on jobs.jobs deferrable initially deferred
            for each row when (old.rescues < new.rescues) execute function jobs.hold()`)
          const one = yield* start("one")
          const states: Array<string> = []
          const jobs = yield* Jobs.Jobs
          yield* Effect.forkScoped(
            Stream.runForEach(one.jobs.events, (event) =>
              event._tag === "Rescued"
                ? Effect.map(jobs.get(event.id), ({ rescues, state }) => states.push(`${rescues} ${state}`))
                : Effect.void
            ),
            { startImmediately: true }
          )
          const insertion = sql<{ readonly id: Job.JobId }>`
            insert into jobs.jobs (state, queue, worker, args, attempt, lease, leased_by)
            values ('executing', 'default', 'Task', '{"millis": 300, "stubborn": false}', 1, 1, gen_random_uuid())
            returning id::float8 as id`
          const lock = sql`select pg_advisory_xact_lock(4711)`
          const [, orphan] = yield* whileOpen(
            sql,
            lock,
            Effect.gen(function* () {
              const [row] = yield* insertion
              yield* eventually(
                "the rescue is about to commit",
                sql`select from pg_locks where locktype = 'advisory' and not granted and objid = 4711`,
                (waiting) => waiting.length === 1
              )
              yield* aWhile
              assert.deepStrictEqual(tagged(one.events, "Rescued"), [])
              return row?.id ?? assert.fail()
            })
          )
          yield* completed(orphan)
          assert.deepStrictEqual(
            tagged(one.events, "Rescued").map((event) => "id" in event && event.id),
            [orphan]
          )
          assert.lengthOf(states, 1)
          assert.match(states[0] ?? "", /^1 (available|executing|completed)$/)
          yield* sql.unsafe("drop trigger hold on jobs.jobs")
          yield* sql.unsafe("drop function jobs.hold()")
        })
      )
    )

    it.live("of a lost lease when the loss is committed, not before, and not when it rolls back", () =>
      alone(
        Effect.gen(function* () {
          const { begun, enqueue, runs, sql, start } = yield* setUp
          const one = yield* start("one", { lease: "1500 millis" })
          const id = yield* enqueue()
          yield* begun(1)
          const lost = () => tagged(one.events, "LeaseLost")
          const take = sql`
            update jobs.jobs set lease = lease + 1, state = 'scheduled', leased_by = null,
                   scheduled_at = statement_timestamp() + interval '1 hour'`
          // Longer than from heartbeat to heartbeat.
          const looked = Effect.sleep("600 millis")
          yield* Effect.flip(sql.withTransaction(take.pipe(Effect.andThen(looked), Effect.andThen(Effect.fail("no")))))
          assert.deepStrictEqual(lost(), [])
          yield* whileOpen(
            sql,
            take,
            Effect.andThen(
              looked,
              Effect.sync(() => assert.deepStrictEqual(lost(), []))
            )
          )
          yield* eventually("it is told", Effect.sync(lost), (events) => events.length > 0)
          yield* eventually(
            "it is interrupted",
            Effect.sync(() => runs[0]?.how),
            (how) => how === "interrupted"
          )
          yield* looked
          assert.deepStrictEqual(lost(), [
            { _tag: "LeaseLost", id, worker: "Task", queue: "default", attempt: 1, lease: 1 }
          ])
          const [row] = yield* sql`select state, lease::int4 as lease from jobs.jobs`
          assert.deepStrictEqual(row, { state: "scheduled", lease: 2 })
        })
      )
    )

    it.live("how it is told of new jobs, and whether it lives", () =>
      alone(
        Effect.gen(function* () {
          const { jobs, sql, start } = yield* setUp
          assert.deepStrictEqual(yield* jobs.status, {
            node: undefined,
            wakeUp: "off",
            queues: {},
            heartbeatAge: undefined
          })
          const one = yield* start("one")
          const status = yield* eventually("it listens", one.jobs.status, ({ wakeUp }) => wakeUp === "listen")
          assert.strictEqual(status.node?.name, "one")
          assert.deepStrictEqual(status.queues, { default: { running: 0, buffered: 0, limit: 5, paused: false } })
          const beaten = yield* eventually(
            "it has said that it lives",
            one.jobs.status,
            ({ heartbeatAge }) => heartbeatAge !== undefined
          )
          assert.isBelow(Duration.toMillis(beaten.heartbeatAge ?? Duration.infinity), 1_400)
          // Whoever listens inside of a transaction holds up what all others are told, until no commit can tell anything.
          const listeners = yield* sql`
            select state, xact_start from pg_stat_activity
             where application_name = 'coppice jobs listener' and datname = current_database()`
          assert.deepStrictEqual(listeners, [{ state: "idle", xact_start: null }])
          yield* sql`
            select pg_terminate_backend(pid) from pg_stat_activity
             where application_name = 'coppice jobs listener' and datname = current_database()`
          yield* eventually(
            "it polls, and listens again",
            Effect.sync(() => one.events.flatMap((event) => (event._tag === "WakeUpMode" ? [event.mode] : []))),
            (modes) => modes.join().endsWith("poll,listen")
          )
          assert.strictEqual((yield* one.jobs.status).wakeUp, "listen")
        })
      )
    )
  })
})
