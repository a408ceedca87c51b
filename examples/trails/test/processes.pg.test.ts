import { Tree } from "@coppice/supervision"
import { assert, layer } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Schedule } from "effect"
import { get, type IncomingMessage } from "node:http"
import { application, ask, askAs, baseUrl, newTrail } from "./fixtures/app.ts"
import { countPages } from "./fixtures/domain.ts"
import { form, json } from "./fixtures/http.ts"
import { follow } from "./fixtures/live.ts"

/** The events of the panel, as they come; ended when the server ends them. */
const panel = Effect.acquireRelease(
  Effect.gen(function* () {
    const base = yield* baseUrl
    const state = { text: "", headers: {} as IncomingMessage["headers"] }
    const ended = yield* Deferred.make<void>()
    const request = get(`${base}/processes/events`, { agent: false }, (message) => {
      state.headers = message.headers
      message.setEncoding("utf8").on("data", (chunk: string) => (state.text += chunk))
      message.once("close", () => Deferred.doneUnsafe(ended, Effect.void))
    })
    request.on("error", () => Deferred.doneUnsafe(ended, Effect.void))
    return { state, request, ended: Deferred.await(ended) }
  }),
  ({ request }) => Effect.sync(() => request.destroy())
)

/** Looks again until it is so: what is waited for happens in sockets, which no test clock moves. */
const eventually = (what: () => boolean) =>
  Effect.repeat(Effect.sync(what), { until: (so) => so, schedule: Schedule.spaced("10 millis") })

const running = (path: string) =>
  Effect.repeat(Tree.get(path), {
    until: ({ status }) => status === "running",
    schedule: Schedule.spaced("10 millis")
  })

const crash = (path: string, referer = "") => {
  const request = form({ path })
  return ask("/processes/crash", { ...request, headers: { ...request.headers, referer } })
}

layer(application(), { excludeTestServices: true })("The panel of processes", (it) => {
  it.effect("shows every process, and crashes one at the press of a button", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      const before = (yield* askAs(user, page)).text
      for (const name of ["database", "trail-cache", "capture-limiter", "jobs", "web"]) {
        assert.include(before, `name="path" value="Trails/${name}"`)
      }
      assert.notInclude(before, `value="Trails"`)
      const crashed = yield* crash("Trails/trail-cache", `${yield* baseUrl}${page}`)
      assert.deepStrictEqual([crashed.status, crashed.headers.location], [303, page])
      yield* running("Trails/trail-cache")
      const after = (yield* askAs(user, page)).text
      assert.include(after, "1 restart")
      assert.include(after, "Trails/trail-cache was killed")
    })
  )

  it.effect("crashes no process that is not there, and not the application itself", () =>
    Effect.gen(function* () {
      for (const path of ["Trails", "", "Trails/nobody", "Trails/", "/"]) {
        assert.strictEqual((yield* crash(path)).status, 404, path)
      }
      assert.strictEqual((yield* Tree.get("Trails")).status, "running")
    })
  )

  it.effect("shows the processes of the queue, and what there is to do in it", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      const before = (yield* askAs(user, page)).text
      for (const name of ["heartbeat", "queues/default", "queues/notifications"]) {
        assert.include(before, `name="path" value="Trails/jobs/${name}"`)
      }
      const { state } = yield* panel
      yield* eventually(() => state.text.includes("event: queues"))
      assert.match(state.text, /event: queues\ndata: <ul[^]*?default[^]*?notifications/)
      yield* askAs(user, `${page}/pages`, form({ url: "https://example.org/" }))
      // There is no web in this test, so the page is to be looked at once more.
      yield* eventually(() => /event: queues[^]*?\d later/.test(state.text))
    }).pipe(Effect.scoped)
  )

  it.effect("is the same for all who look, so it is made once", () =>
    Effect.gen(function* () {
      const pages = [yield* newTrail, yield* newTrail]
      const opened = yield* Effect.forEach(pages, ({ page, user }) => follow(user, `${page}/events`))
      for (const region of ["processes", "queues"]) {
        yield* eventually(() => {
          const [one, other] = opened.map((page) => page.region(region))
          return one !== "" && one === other
        })
      }
    }).pipe(Effect.scoped)
  )

  it.effect("is told of a crash at once", () =>
    Effect.gen(function* () {
      const { state } = yield* panel
      yield* eventually(() => state.text.includes("event: processes"))
      assert.strictEqual(state.headers["content-type"], "text/event-stream")
      assert.strictEqual(state.headers["cache-control"], "no-store")
      assert.match(state.text, /^retry: 1000\n\nevent: /)
      assert.include(state.text, "event: processes\ndata: <ul")
      assert.notInclude(state.text, "capture-limiter was killed")
      yield* crash("Trails/capture-limiter")
      yield* eventually(() => state.text.includes("capture-limiter was killed"))
    }).pipe(Effect.scoped)
  )
})

layer(application(), { excludeTestServices: true })("A crash by the panel", (it) => {
  it.effect("leads back to pages of this server only", () =>
    Effect.gen(function* () {
      const id = "01a208b4-33b2-72d1-85a5-d8693a2fa0b0"
      for (const referer of [
        "//evil.example",
        "https://evil.example",
        "https://evil.example//evil.example",
        `https://evil.example/trails//evil.example/${id}`,
        "x%0d%0aset-cookie: a=b"
      ]) {
        yield* running("Trails/trail-cache")
        const { headers, status } = yield* crash("Trails/trail-cache", referer)
        assert.deepStrictEqual([status, headers.location, headers["set-cookie"]], [303, "/", undefined])
      }
    })
  )
})

layer(application(), { excludeTestServices: true })("While processes crash", (it) => {
  it.effect("50 concurrent reads are all answered right, although the cache crashes among them", () =>
    Effect.gen(function* () {
      const trails = yield* Effect.all(Array.from({ length: 5 }, () => newTrail))
      const reads = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 50 }, (_, n) => trails[n % 5]!),
          ({ api, user }) => askAs(user, api),
          { concurrency: 50 }
        )
      )
      yield* Tree.kill("Trails/trail-cache")
      const responses = yield* Fiber.join(reads)
      assert.deepStrictEqual(
        responses.map((response) => [response.status, (response.json() as { readonly id: string }).id]),
        Array.from({ length: 50 }, (_, n) => [200, trails[n % 5]!.id])
      )
    })
  )

  it.effect("a pause is seen by the next read, also right after the cache has crashed", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      yield* askAs(user, api)
      yield* Tree.kill("Trails/trail-cache")
      yield* askAs(user, `${api}/pause`, { method: "POST" })
      assert.include((yield* askAs(user, api)).text, `"status":"paused"`)
    })
  )

  it.effect("no capture is refused because the limiter crashes among them", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      const captures = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 30 }, (_, n) => n),
          (n) => askAs(user, `${api}/pages`, json({ url: `https://example.org/${n}` })),
          { concurrency: 10 }
        )
      )
      yield* Tree.kill("Trails/capture-limiter")
      for (const { status, text } of yield* Fiber.join(captures)) assert.strictEqual(status, 201, text)
    })
  )
})

layer(application(), { excludeTestServices: true })("When the database crashes", (it) => {
  it.effect("every acknowledged capture is there, and the application serves again", () =>
    Effect.gen(function* () {
      const { api, id, user } = yield* newTrail
      const other = yield* newTrail
      const captures = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 50 }, (_, n) => n),
          (n) => Effect.exit(askAs(user, `${api}/pages`, json({ url: `https://example.org/${n}` }))),
          { concurrency: 10 }
        )
      )
      yield* Effect.repeat(countPages(id), { until: (count) => count >= 10 })
      yield* Tree.kill("Trails/database")
      const exits = yield* Fiber.join(captures)
      const answers = exits.map((exit) => (Exit.isSuccess(exit) ? exit.value.status : 0))
      const acknowledged = answers.filter((status) => status === 201).length
      for (const exit of exits) {
        assert(Exit.isSuccess(exit))
        const { headers, status } = exit.value
        assert.oneOf(status, [201, 503])
        if (status !== 503) continue
        assert.deepInclude(headers, { "content-type": "application/problem+json", "retry-after": "1" })
      }
      // A capture whose commit was cut off may have been written without anybody hearing of it.
      const written = yield* countPages(id)
      assert.isAtLeast(written, acknowledged)
      assert.isAtMost(written, 50)
      assert.strictEqual((yield* Tree.get("Trails/database")).restarts, 1)
      assert.strictEqual((yield* Tree.get("Trails/web")).restarts, 0)
      const late = yield* askAs(other.user, `${other.api}/pages`, json({ url: "https://example.org/late" }))
      assert.strictEqual(late.status, 201)
    })
  )
})

layer(application(), { excludeTestServices: true })("When the application stops", (it) => {
  it.effect("live panels end at once, and whoever watches comes back to a server that crashed", () =>
    Effect.gen(function* () {
      const { ended, state } = yield* panel
      yield* eventually(() => state.text.includes("event: processes"))
      const [took] = yield* Effect.timed(Effect.andThen(Tree.kill("Trails/web"), ended))
      assert.isBelow(Duration.toMillis(took), 3000)
      yield* running("Trails/web")
    }).pipe(Effect.scoped)
  )
})
