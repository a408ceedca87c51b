import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Latch, Redacted, Schedule } from "effect"
import * as AppProcess from "../src/demo/AppProcess.ts"
import * as Client from "../src/demo/Client.ts"
import * as PageServer from "../src/demo/PageServer.ts"
import { demoUser } from "../src/Seed.ts"

const args = ["--captures-per-minute", "1000000", "--allow-private-addresses"]
// Several processes that all want to start: a busy machine takes its time.
const patience = 120_000
const shortLease = ["--job-lease", "2"]

layer(Postgres.layerTestDatabase(), { excludeTestServices: true })("Jobs of several processes", (it) => {
  it.effect(
    "are all done when a worker is killed in the middle of them, and nobody is told twice",
    () =>
      Effect.gen(function* () {
        const database = Redacted.value((yield* Postgres.Server).url())
        const answers = yield* Latch.make(false)
        const web = yield* PageServer.start(answers.await)
        // Two that start together on an empty database.
        const [app, worker] = yield* Effect.all(
          [
            AppProcess.startOn(database, [...args, ...shortLease]),
            AppProcess.startOn(database, ["--worker", ...args, ...shortLease])
          ],
          { concurrency: 2 }
        )
        assert.strictEqual(worker.url, "")
        const client = yield* Client.make(app.url)
        const { id } = yield* client.trails.create({ payload: { name: "Ridge" } })
        yield* client.followers.add({ params: { id }, payload: { name: demoUser } })
        const urls = Array.from({ length: 60 }, (_, n) => `${web.url}/${n}`)
        const captures = yield* Effect.forkChild(Client.captureAll(client, id, urls, 10))
        // A process looks at ten pages at a time: when more wait for their answer, some of them are the worker's.
        yield* Effect.repeat(Effect.sync(web.open), {
          until: (open) => open > 10,
          schedule: Schedule.spaced("5 millis")
        })
        yield* worker.signal("SIGKILL")
        assert.strictEqual((yield* worker.ended).signal, "SIGKILL")
        yield* answers.open
        assert.lengthOf(yield* Fiber.join(captures), urls.length)
        const pages = yield* Client.untilFetched(client, id)
        assert.lengthOf(pages, urls.length)
        for (const { metadata, title, url } of pages) {
          assert.deepStrictEqual([metadata, title], ["fetched", PageServer.titleOf(new URL(url).pathname)])
        }
        // Those that the worker was looking at when it was killed.
        assert.isAbove([...web.asked.values()].filter((times) => times > 1).length, 0)
        const told = yield* Effect.repeat(Client.allNotifications(client), {
          until: (all) => all.length >= urls.length,
          schedule: Schedule.spaced("50 millis")
        })
        assert.sameMembers(
          told.map(({ url }) => url),
          urls
        )
      }).pipe(Effect.scoped),
    patience
  )

  it.effect(
    "are left to others in order by a worker that is asked to stop",
    () =>
      Effect.gen(function* () {
        const database = Redacted.value((yield* Postgres.Server).url())
        const asked = yield* Deferred.make<void>()
        const web = yield* PageServer.start(Effect.sleep("300 millis"), () => Deferred.doneUnsafe(asked, Effect.void))
        const [app, worker] = yield* Effect.all(
          [AppProcess.startOn(database, args), AppProcess.startOn(database, ["--worker", ...args])],
          { concurrency: 2 }
        )
        const client = yield* Client.make(app.url)
        const { id } = yield* client.trails.create({ payload: { name: "Valley" } })
        const urls = Array.from({ length: 30 }, (_, n) => `${web.url}/${n}`)
        const captures = yield* Effect.forkChild(Client.captureAll(client, id, urls, 10))
        yield* Deferred.await(asked)
        yield* worker.signal("SIGTERM")
        assert.strictEqual((yield* worker.ended).code, 0, worker.output())
        yield* Fiber.join(captures)
        yield* Client.untilFetched(client, id)
        // Nothing was begun twice: what the worker had begun it ended, what it had not it gave back.
        assert.deepStrictEqual(
          [...web.asked.values()].filter((times) => times > 1),
          []
        )
      }).pipe(Effect.scoped),
    patience
  )
})
