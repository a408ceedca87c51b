/** The part of the story with several processes on one database, one of which is killed at its work. */
import { Jobs } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { ConfigProvider, Context, Duration, Effect, Fiber, Latch, Layer, Redacted, References, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import { demoUser } from "../Seed.ts"
import * as AppProcess from "./AppProcess.ts"
import * as Client from "./Client.ts"
import * as PageServer from "./PageServer.ts"
import { check, scene, seconds, tell } from "./Story.ts"
import * as Viewing from "./Viewing.ts"

/** A server for all of them, and the queue as this process sees it; whatever the environment says of other servers. */
const Database = Jobs.layerClient.pipe(
  Layer.provideMerge(Postgres.layerWith({ temporary: true })),
  Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({})))
)

/** What the story needs, which takes a while to start; all of it is gone when the scope closes. */
export const start = Effect.fnUntraced(function* (args: ReadonlyArray<string>) {
  const services = yield* Effect.provideService(Layer.build(Database), References.MinimumLogLevel, "Warning")
  const database = Redacted.value(Context.get(services, Postgres.Server).url())
  const answers = yield* Latch.make(false)
  const web = yield* PageServer.start(answers.await)
  const [app, worker] = yield* Effect.all(
    [AppProcess.startOn(database, args), AppProcess.startOn(database, ["--worker", ...args])],
    { concurrency: 2 }
  )
  return { services, database, args, answers, web, app, worker }
})

/** Told to its end. */
export const story = Effect.fnUntraced(function* ({
  answers,
  app,
  args,
  database,
  services,
  web,
  worker
}: Effect.Success<ReturnType<typeof start>>) {
  scene("The application and a worker process share a database")
  const client = yield* Client.make(app.url)
  const trail = yield* client.trails.create({ payload: { name: "Field notes" } })
  const params = { id: trail.id }
  yield* client.followers.add({ params, payload: { name: demoUser } })
  tell(`Both run jobs. "${demoUser}" follows the trail "${trail.name}".`)

  scene("The worker is killed in the middle of 60 pages (kill -9)")
  const urls = Array.from({ length: 60 }, (_, index) => `${web.url}/shared/${index + 1}`)
  const captures = yield* Effect.forkChild(Client.captureAll(client, trail.id, urls, 10))
  // A process looks at ten pages at a time: when more wait for their answer, some of them are the worker's.
  yield* Effect.repeat(Effect.sync(web.open), { until: (open) => open > 10, schedule: Schedule.spaced("5 millis") })
  yield* worker.signal("SIGKILL")
  yield* worker.ended
  yield* answers.open
  const [took, acknowledged] = yield* Effect.timed(
    Effect.tap(Fiber.join(captures), () => Client.untilFetched(client, trail.id))
  )
  const pages = yield* Client.untilFetched(client, trail.id)
  const titled = pages.filter(({ description, title }) => title !== null && description !== null).length
  const twice = [...web.asked.values()].filter((times) => times > 1).length
  check(`${acknowledged.length} of ${urls.length} captures were acknowledged`, acknowledged.length === urls.length)
  check(
    `${titled} of them have title and description ${seconds(Duration.toMillis(took))} after that`,
    titled === urls.length
  )
  check(`${twice} pages were asked again, which the worker had taken with it`, twice > 0)
  const told = yield* Effect.repeat(Client.allNotifications(client), {
    until: (all) => all.length >= urls.length,
    schedule: Schedule.spaced("50 millis")
  })
  const pagesTold = new Set(told.map(({ url }) => url)).size
  check(
    `the follower was told of ${pagesTold} pages, of each once`,
    pagesTold === urls.length && told.length === pagesTold
  )

  scene("A day passes, and it is three at night")
  yield* Context.get(services, SqlClient.SqlClient)`update notifications set created_at = created_at - interval '1 day'`
  yield* Context.get(services, Jobs.Jobs).cron.runNow("digest")
  const [digest] = yield* Effect.repeat(client.notifications.digests(), {
    until: (digests) => digests.length > 0,
    schedule: Schedule.spaced("50 millis")
  })
  tell(`The digest of ${digest?.day}: ${digest?.pages} pages in ${digest?.trails} trail.`)
  check("every page is counted", digest?.pages === urls.length)

  yield* Viewing.story(database, app, trail.id, args)
})
