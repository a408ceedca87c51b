/**
 * `npm run demo`: a session with the application, played against an instance of its own, in which nearly everything
 * crashes and nothing is lost. Tells what happens, and ends with exit code 1 if anything was lost after all.
 */
import { runMain } from "@effect/platform-node/NodeRuntime"
import { Deferred, Duration, Effect, Fiber } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as AppProcess from "./demo/AppProcess.ts"
import * as Client from "./demo/Client.ts"
import * as PageServer from "./demo/PageServer.ts"
import { check, end, scene, seconds, tell } from "./demo/Story.ts"
import * as Processes from "./demo/Processes.ts"
import type { TrailId } from "./Trail.ts"

/** Captures per minute: little enough to run into it, enough for the rest of the story. */
const limit = 150
// Pages of this machine may be fetched, and a process that is silent for two seconds is given up.
const args = ["--captures-per-minute", String(limit), "--allow-private-addresses", "--job-lease", "2"]

const story = Effect.gen(function* () {
  const data = yield* folder
  const web = yield* PageServer.start(Effect.sleep("20 millis"))
  const addresses = (topic: string, count: number) =>
    Array.from({ length: count }, (_, index) => `${web.url}/${topic}/${index + 1}`)
  const acknowledged = new Set<string>()

  scene("The application starts")
  const [took, app] = yield* Effect.timed(AppProcess.start(data, args))
  const client = yield* Client.make(app.url)
  tell(`Ready after ${seconds(Duration.toMillis(took))} at ${app.url}, with a database of its own in a new folder.`)
  const trail = yield* client.trails.create({ payload: { name: "Field notes" } })
  const params = { id: trail.id }
  const capture = (url: string) => client.captures.capture({ params, payload: { url } })
  tell(`A trail is started: "${trail.name}".`)

  scene("What is refused, and why")
  const notes = `${web.url}/notes`
  acknowledged.add((yield* capture(notes)).url)
  for (const [what, effect] of [
    ["the same page again", capture(`${notes}#part-two`)],
    ["an address that runs code", capture("javascript:alert(1)")],
    ["a page for a paused trail", Effect.andThen(client.trails.pause({ params }), capture(`${web.url}/late`))]
  ] as const) {
    const problem = yield* Effect.flip(effect)
    tell(`${what}: ${"status" in problem ? `${problem.status} ` : ""}${problem.message}`)
    check("it was refused", problem._tag === "InvalidInput" || problem._tag === "Paused")
  }
  yield* client.trails.resume({ params })

  scene("The cache and the limiter crash in the middle of 60 captures")
  yield* captureAndMeanwhile(client, trail.id, addresses("storm", 60), acknowledged, [
    Client.crash(app.url, "Trails/trail-cache"),
    Client.crash(app.url, "Trails/capture-limiter")
  ])
  yield* allThere(client, trail.id, acknowledged)

  scene("The database crashes in the middle of 60 captures, and takes the queue with it")
  yield* captureAndMeanwhile(client, trail.id, addresses("flood", 60), acknowledged, [
    Client.crash(app.url, "Trails/database")
  ])
  yield* allThere(client, trail.id, acknowledged)

  scene("Five quiet seconds")
  const processes = yield* Effect.forkScoped(Processes.start(args))
  // The supervisor's window is real time in another process: nothing here could make it pass faster.
  yield* Effect.sleep("5 seconds")
  tell("Five restarts within five seconds is what the supervisor puts up with. Now they are forgotten.")

  scene("Somebody captures too much")
  const greedy = Effect.forEach(
    addresses("greed", 2 * limit),
    (url) => Effect.tap(capture(url), () => Effect.sync(() => acknowledged.add(url))),
    { discard: true }
  )
  const refused = yield* Effect.flip(greedy)
  tell(refused.message)
  check("the limiter put an end to it", refused._tag === "TooMany")
  yield* Client.crash(app.url, "Trails/capture-limiter")
  acknowledged.add((yield* capture(`${web.url}/forgiven`)).url)
  tell("The limiter crashes. Its counts were not worth keeping, so the next capture is welcome again.")

  scene("A crash storm")
  let crashes = 0
  const storm = Client.crash(app.url, "Trails/trail-cache").pipe(
    Effect.andThen(Effect.sync(() => crashes++)),
    // It may still be on its way up.
    Effect.catchTag("NotCrashed", () => Effect.void),
    Effect.andThen(Effect.sleep("100 millis")),
    Effect.forever
  )
  yield* Effect.raceFirst(Effect.ignore(storm), app.ended)
  const gaveUp = yield* app.ended
  tell(`After ${crashes} more crashes in a row the supervisor gives up: more than 5 restarts in 5 seconds.`)
  check(`the application ended with exit code ${gaveUp.code}`, gaveUp.code === 1)

  scene("The application starts again, on the same data")
  const second = yield* AppProcess.start(data, args)
  const again = yield* Client.make(second.url)
  yield* allThere(again, trail.id, acknowledged)

  scene("It is killed in the middle of 60 captures (kill -9)")
  yield* captureAndMeanwhile(again, trail.id, addresses("killed", 60), acknowledged, [second.signal("SIGKILL")])
  yield* second.ended
  const third = yield* AppProcess.start(data, args)
  const last = yield* Client.make(third.url)
  yield* allThere(last, trail.id, acknowledged)

  scene("Every page is asked what it says of itself, whatever crashed in between")
  const [waited, pages] = yield* Effect.timed(Client.untilFetched(last, trail.id))
  const titled = pages.filter(({ title, url }) => title === PageServer.titleOf(new URL(url).pathname)).length
  check(
    `${titled} of ${pages.length} pages have their title after ${seconds(Duration.toMillis(waited))}`,
    titled === pages.length
  )

  scene("It is asked to stop")
  yield* third.signal("SIGTERM")
  const [stopped, { code }] = yield* Effect.timed(third.ended)
  check(`it stopped in order within ${seconds(Duration.toMillis(stopped))}, exit code ${code}`, code === 0)

  yield* Processes.story(yield* Fiber.join(processes))
}).pipe(Effect.scoped)

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "trails-demo-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** Captures ten at a time, and when a third has been acknowledged does something else as well. */
const captureAndMeanwhile = Effect.fnUntraced(function* (
  client: Client.Client,
  id: TrailId,
  urls: ReadonlyArray<string>,
  acknowledged: Set<string>,
  meanwhile: ReadonlyArray<Effect.Effect<unknown, unknown>>
) {
  const started = yield* Deferred.make<void>()
  const captures = yield* Effect.forkChild(
    Client.captureAll(client, id, urls, 10, (count) => {
      if (count >= urls.length / 3) Deferred.doneUnsafe(started, Effect.void)
    })
  )
  // When too few are acknowledged, the end comes before the third.
  yield* Effect.raceFirst(Deferred.await(started), Effect.asVoid(Fiber.await(captures)))
  yield* Effect.all(meanwhile, { concurrency: "unbounded" })
  const captured = yield* Fiber.join(captures)
  for (const url of captured) acknowledged.add(url)
  check(`${captured.length} of ${urls.length} captures were acknowledged`, captured.length >= urls.length / 3)
})

const allThere = Effect.fnUntraced(function* (client: Client.Client, id: TrailId, acknowledged: ReadonlySet<string>) {
  const urls = yield* Client.allUrls(client, id)
  const there = [...acknowledged].filter((url) => urls.has(url)).length
  check(`${there} of ${acknowledged.size} acknowledged pages are there`, there === acknowledged.size)
})

runMain(
  Effect.tap(story, () =>
    Effect.sync(() => {
      if (!end()) process.exitCode = 1
    })
  )
)
