import { Tree } from "@coppice/supervision"
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, Exit, Layer, References, Schedule, Scope, Stream } from "effect"
import { Captures } from "../src/Captures.ts"
import type { TrailId } from "../src/Trail.ts"
import { TrailTopic } from "../src/TrailEvents.ts"
import { MaxOpenPages } from "../src/web/Live.ts"
import { application, ask, askAs, eventsOf, lookingAt, newTrail, start } from "./fixtures/app.ts"
import { newUser } from "./fixtures/domain.ts"
import { form, json, send } from "./fixtures/http.ts"
import { eventually, follow } from "./fixtures/live.ts"

const url = "https://example.org/"

/** A trail whose page is open. */
const opened = Effect.gen(function* () {
  const trail = yield* newTrail
  const live = yield* follow(trail.user, `${trail.page}/events`)
  yield* live.shows("pages", "Nothing captured yet")
  const capture = (path: string, title?: string) =>
    askAs(trail.user, `${trail.api}/pages`, json({ url: url + path, ...(title === undefined ? {} : { title }) }))
  return { ...trail, live, capture }
})

const quietly = Effect.provideService(References.MinimumLogLevel, "None")

const nobodyLooksAt = (id: TrailId) =>
  Effect.repeat(lookingAt(id), { until: (count) => count === 0, schedule: Schedule.spaced("10 millis") })

/** A web where every page has the same title. */
const web = { fetch: () => Effect.succeed({ title: "What it calls itself", description: null }) }

layer(application({ web }), { excludeTestServices: true })("The open page of a trail", (it) => {
  it.effect("gets every region as it is, in a stream that nobody on the way keeps", () =>
    Effect.gen(function* () {
      const { live } = yield* opened
      const { headers, statusCode } = yield* live.answer
      assert.strictEqual(statusCode, 200)
      assert.strictEqual(headers["content-type"], "text/event-stream")
      assert.strictEqual(headers["cache-control"], "no-store")
      assert.strictEqual(headers["x-accel-buffering"], "no")
      assert.match(live.text(), /^retry: 1000\n\n/)
      yield* eventually(() => ["head", "step", "pages", "followers"].every((name) => live.region(name) !== ""))
      const withId = live.events().filter(({ id }) => id !== undefined)
      assert.deepStrictEqual(
        withId.map(({ event }) => event),
        ["followers"]
      )
    }).pipe(Effect.scoped)
  )

  it.effect("shows a page that is captured, and then what it calls itself", () =>
    Effect.gen(function* () {
      const { capture, live } = yield* opened
      assert.strictEqual((yield* capture("a?b=1&c=2")).status, 201)
      yield* live.shows("pages", `href="${url}a?b=1&#38;c=2"`)
      yield* live.shows("head", "1 page,")
      yield* live.shows("pages", "What it calls itself")
    }).pipe(Effect.scoped)
  )

  it.effect("shows a new name, a pause and who follows, each only to those whom it concerns", () =>
    Effect.gen(function* () {
      const { live, page, user } = yield* opened
      const { name: follower } = yield* newUser
      yield* askAs(user, `${page}/followers`, form({ follower }))
      yield* live.shows("followers", follower)
      const theirs = yield* follow(follower, `${page}/events`)
      yield* theirs.shows("head", "Ridge")
      yield* askAs(user, `${page}/name`, form({ name: `<b>"Valley"`, version: "1" }))
      yield* askAs(user, `${page}/pause`, form({}))
      for (const { shows } of [live, theirs]) {
        yield* shows("head", "<h1>&#60;b&#62;&#34;Valley&#34;</h1>")
        yield* shows("head", "paused")
      }
      yield* live.shows("step", "Resume")
      // It may be renamed again: what is open knows the version that it shows.
      const version = /name="version" value="(\d+)"/.exec(live.region("step"))?.[1] ?? ""
      const renamed = yield* askAs(user, `${page}/name`, form({ name: "Plain", version }))
      assert.strictEqual(renamed.status, 303)
      yield* live.shows("head", "<h1>Plain</h1>")
      for (const region of ["step", "followers"]) assert.strictEqual(theirs.region(region), "")
      assert.notInclude((yield* askAs(follower, page)).text, `action="${page}`)
    }).pipe(Effect.scoped)
  )

  it.effect("is closed to strangers, and to a follower as soon as they are removed", () =>
    Effect.gen(function* () {
      const { capture, page, user } = yield* opened
      const { name: follower } = yield* newUser
      assert.strictEqual((yield* askAs(follower, `${page}/events`)).status, 404)
      assert.strictEqual((yield* askAs("nobody", `${page}/events`)).status, 401)
      assert.strictEqual((yield* ask("/trails/7/events")).status, 404)
      yield* askAs(user, `${page}/followers`, form({ follower }))
      const theirs = yield* follow(follower, `${page}/events`)
      yield* theirs.shows("pages", "Nothing captured yet")
      yield* askAs(user, `${page}/followers/remove`, form({ name: follower }))
      yield* theirs.ended
      yield* capture("secret")
      assert.notInclude(theirs.text(), "secret")
      assert.strictEqual((yield* askAs(follower, page)).status, 404)
    }).pipe(Effect.scoped)
  )

  it.effect("that comes back is sent what has changed since, and nothing that it has", () =>
    Effect.gen(function* () {
      const { capture, live, page, user } = yield* opened
      yield* capture("a", "A page")
      yield* eventually(() => /A page(?![^]*looking at)/.test(live.region("pages")))
      yield* live.leave
      const lastEventId = live.events().findLast(({ id }) => id !== undefined)?.id ?? ""
      const again = yield* follow(user, `${page}/events`, { lastEventId })
      yield* eventually(() => again.events().some(({ event, id }) => event === "beat" && id === lastEventId))
      yield* capture("b", "Another page")
      yield* again.shows("pages", "Another page")
      assert.lengthOf(again.text().match(/event: pages/g) ?? [], 1)
      assert.strictEqual(again.region("step"), "")
      for (const stale of [lastEventId, "nobody knows this", "\u00ff"]) {
        const late = yield* follow(user, `${page}/events`, { lastEventId: stale })
        yield* late.shows("pages", "Another page")
        assert.notStrictEqual(late.region("step"), "")
      }
    }).pipe(Effect.scoped)
  )

  it.effect("is read anew a few times for many captures, and shows the last of them", () =>
    Effect.gen(function* () {
      const { capture, live } = yield* opened
      const paths = Array.from({ length: 40 }, (_, n) => `many/${n}`)
      yield* Effect.forEach(paths, (path) => capture(path, path), { concurrency: 10 })
      yield* eventually(() => paths.every((path) => live.region("pages").includes(path)))
      assert.isBelow(live.events().filter(({ event }) => event === "pages").length, 30)
    }).pipe(Effect.scoped)
  )

  it.effect("leaves nothing behind when it is closed", () =>
    Effect.gen(function* () {
      const { id, live, page, user } = yield* opened
      const another = yield* follow(user, `${page}/events`)
      yield* another.shows("pages", "Nothing captured yet")
      // One reading for both.
      assert.strictEqual(yield* lookingAt(id), 1)
      yield* live.leave
      yield* another.leave
      yield* nobodyLooksAt(id)
    }).pipe(Effect.scoped)
  )

  it.effect("shows who else looks at it, each user once, until the last of their pages is closed", () =>
    Effect.gen(function* () {
      const { live, page, user } = yield* opened
      const { name: follower } = yield* newUser
      yield* askAs(user, `${page}/followers`, form({ follower }))
      yield* live.shows("viewers", "Only you are looking at this.")
      const theirs = yield* follow(follower, `${page}/events`)
      const again = yield* follow(follower, `${page}/events`)
      yield* theirs.shows("viewers", `with you: ${user}.`)
      yield* live.shows("viewers", `with you: ${follower}.`)
      assert.include((yield* askAs(user, page)).text, `with you: ${follower}.`)
      yield* theirs.leave
      yield* again.shows("viewers", `with you: ${user}.`)
      // As when a page is loaded again: nobody sees them leave.
      yield* again.leave
      const back = yield* follow(follower, `${page}/events`)
      yield* back.shows("viewers", `with you: ${user}.`)
      yield* back.leave
      yield* live.shows("viewers", "Only you are looking at this.")
      assert.lengthOf(live.text().match(/event: viewers/g) ?? [], 3)
    }).pipe(Effect.scoped)
  )
})

const crowded = application().pipe(Layer.provide(Layer.succeed(MaxOpenPages, 2)))

layer(crowded, { excludeTestServices: true })("The open page of a trail", (it) => {
  it.effect("is one of so many; one more is told that it is too many, until another is closed", () =>
    Effect.gen(function* () {
      const { live, page, user } = yield* opened
      yield* Effect.andThen(follow(user, "/processes/events"), ({ answer }) => answer)
      const refused = yield* askAs(user, `${page}/events`)
      assert.strictEqual(refused.status, 503)
      assert.include(refused.text, "Too many pages are open")
      assert.strictEqual((yield* askAs(user, page)).status, 200)
      yield* live.leave
      yield* Effect.repeat(
        Effect.andThen(follow(user, `${page}/events`), ({ answer }) => answer),
        {
          until: ({ statusCode }) => statusCode === 200,
          schedule: Schedule.spaced("10 millis")
        }
      )
    }).pipe(Effect.scoped)
  )
})

layer(application(), { excludeTestServices: true })("Two applications on one database", (it) => {
  it.effect("tell each other of what has committed, and of nothing else, and the row is there", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const other = yield* quietly(start())
      const { capture, id, page, user } = yield* opened
      const pubsubs = [other.pubsub, yield* eventsOf]
      const subscriptions = yield* Effect.forEach(pubsubs, (pubsub) => pubsub.subscribe(TrailTopic(id)))
      const theirs = yield* follow(user, `${page}/events`, { base: other.url })
      yield* theirs.shows("pages", "Nothing captured yet")
      for (const [path, status] of [["a", 201] as const, ["a", 422] as const, ["b", 201] as const]) {
        assert.strictEqual((yield* capture(path, path)).status, status)
      }
      for (const { events } of subscriptions) {
        const told = yield* events.pipe(
          Stream.filter(({ _tag }) => _tag === "PageCaptured"),
          Stream.take(2),
          Stream.mapEffect((event) =>
            Effect.map(captures.list(id), (pages) => {
              const page = event._tag === "PageCaptured" ? event.page : undefined
              return pages.find(({ id }) => id === page)?.title
            })
          ),
          Stream.runCollect
        )
        assert.deepStrictEqual(told, ["a", "b"])
      }
      yield* theirs.shows("pages", `${url}b`)
    }).pipe(Effect.scoped)
  )

  it.effect("forget what they remember of a trail that the other one changes", () =>
    Effect.gen(function* () {
      const other = yield* quietly(start())
      const { api, user } = yield* newTrail
      const status = (base: string) =>
        Effect.map(
          send(`${base}${api}`, { headers: { "x-user": user } }),
          (response) => (response.json() as { readonly status: string }).status
        )
      assert.strictEqual(yield* status(other.url), "active")
      yield* askAs(user, `${api}/pause`, { method: "POST" })
      // Much sooner than the five seconds for which it would be remembered.
      const [took] = yield* Effect.timed(
        Effect.repeat(status(other.url), {
          until: (now) => now === "paused",
          schedule: Schedule.spaced("10 millis")
        })
      )
      assert.isBelow(Duration.toMillis(took), 2000)
    }).pipe(Effect.scoped)
  )

  it.effect("see each other's viewers, and those leave with their application", () =>
    Effect.gen(function* () {
      const { live, page, user } = yield* opened
      const { name: follower } = yield* newUser
      yield* askAs(user, `${page}/followers`, form({ follower }))
      const scope = yield* Scope.make()
      const other = yield* Scope.provide(quietly(start()), scope)
      const theirs = yield* follow(follower, `${page}/events`, { base: other.url })
      const mine = yield* follow(user, `${page}/events`, { base: other.url })
      yield* theirs.shows("viewers", `with you: ${user} (on 2 servers).`)
      yield* live.shows("viewers", `with you (on 2 servers): ${follower}.`)
      const [took] = yield* Effect.timed(Scope.close(scope, Exit.void))
      yield* mine.ended
      yield* theirs.ended
      assert.isBelow(Duration.toMillis(took), 3000)
      yield* live.shows("viewers", "Only you are looking at this.")
    }).pipe(Effect.scoped)
  )
})

layer(application(), { excludeTestServices: true })("The open page of a trail", (it) => {
  it.effect("goes on when what it stands on has crashed", () =>
    Effect.gen(function* () {
      const { capture, live } = yield* opened
      for (const child of ["database", "pubsub", "viewers", "trail-cache"]) {
        yield* Tree.kill(`Trails/${child}`)
        yield* Effect.repeat(capture(child, child), {
          until: ({ status }) => status === 201,
          schedule: Schedule.spaced("50 millis")
        })
        yield* live.shows("pages", child)
      }
    }).pipe(Effect.scoped)
  )

  it.effect("is let go at once when the server stops", () =>
    Effect.gen(function* () {
      const { id, live } = yield* opened
      const [took] = yield* Effect.timed(Effect.andThen(Tree.kill("Trails/web"), live.ended))
      assert.isBelow(Duration.toMillis(took), 2000)
      yield* nobodyLooksAt(id)
    }).pipe(Effect.scoped)
  )
})
