import { Jobs } from "@coppice/jobs"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { SqlClient } from "effect/sql"
import { Captures, listLimit } from "../src/Captures.ts"
import { Followers } from "../src/Followers.ts"
import { Trails } from "../src/Trails.ts"
import { countPages, Domain, newTrail, newUser, listen } from "./fixtures/domain.ts"

layer(Domain)("Captures", (it) => {
  it.effect("captures a page under the address as the URL standard writes it", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const { owner, trail } = yield* newTrail
      const capture = (input: unknown) => captures.capture(owner, trail.id, input)
      const page = yield* capture({ url: " HTTPS://Example.org:443/a b?q=ü#part ", title: "  A page ", trailId: "x" })
      assert.deepInclude(
        { ...page },
        {
          url: "https://example.org/a%20b?q=%C3%BC",
          title: "A page",
          trailId: trail.id
        }
      )
      assert.isNull((yield* capture({ url: "http://example.org" })).title)
      assert.isNull((yield* capture({ url: "http://example.org/blank", title: "  " })).title)
    })
  )

  it.effect("tells what is wrong with an address or a title, all at once", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const { owner, trail } = yield* newTrail
      const fieldsOf = (input: unknown) =>
        Effect.map(Effect.flip(captures.capture(owner, trail.id, input)), (error) =>
          error._tag === "ValidationError" ? error.fields : error
        )
      const noAddress = ["must be an http or https address"] as const
      for (const url of [
        "",
        "example.org",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        " data:text/html,x",
        "ftp://x",
        "//x"
      ]) {
        assert.deepStrictEqual(yield* fieldsOf({ url }), { url: noAddress }, url)
      }
      assert.deepStrictEqual(yield* fieldsOf({ url: "x", title: "y".repeat(301) }), {
        url: noAddress,
        title: ["must be no longer than 300 characters"]
      })
      assert.deepStrictEqual(yield* fieldsOf(null), { $: ["must be an object"] })
      // Each of these letters takes six characters once it is escaped.
      assert.deepStrictEqual(yield* fieldsOf({ url: `https://example.org/${"ü".repeat(400)}` }), {
        url: ["must be no longer than 2048 characters"]
      })
      assert.strictEqual(yield* countPages(trail.id), 0)
    })
  )

  it.effect("holds an address once in a trail, however many capture it at once, and again in another trail", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const { owner, trail } = yield* newTrail
      const other = yield* newTrail
      const input = { url: "https://example.org/" }
      const exits = yield* Effect.all(
        Array.from({ length: 8 }, () => Effect.exit(captures.capture(owner, trail.id, input))),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(exits.filter(Exit.isSuccess), 1)
      const error = yield* Effect.flip(captures.capture(owner, trail.id, { url: "https://EXAMPLE.org#x" }))
      assert(error._tag === "ValidationError")
      assert.deepStrictEqual(error.fields, { url: ["is in this trail already"] })
      yield* captures.capture(other.owner, other.trail.id, input)
    })
  )

  it.effect("puts nothing into a trail of somebody else", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const { trail } = yield* newTrail
      const stranger = yield* newUser
      const error = yield* Effect.flip(captures.capture(stranger.id, trail.id, { url: "https://example.org/" }))
      assert.strictEqual(error._tag, "TrailNotFound")
      assert.strictEqual(yield* countPages(trail.id), 0)
    })
  )

  it.effect("refuses captures into a paused trail until it is resumed", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      const capture = captures.capture(owner, trail.id, { url: "https://example.org/" })
      yield* trails.pause(owner, trail.id)
      const error = yield* Effect.flip(capture)
      assert.strictEqual(error._tag, "TrailPaused")
      assert.include(error.message, "Resume it")
      yield* trails.resume(owner, trail.id)
      yield* capture
    })
  )

  it.effect("accepts no capture once a pause has committed, also of those that were under way", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const trails = yield* Trails
      for (let round = 0; round < 5; round++) {
        const { owner, trail } = yield* newTrail
        const some = yield* Deferred.make<void>()
        let accepted = 0
        const writer = (name: number) =>
          Effect.gen(function* () {
            for (let n = 0; ; n++) {
              yield* captures.capture(owner, trail.id, { url: `https://example.org/${name}/${n}` })
              accepted++
              if (accepted > 5 * round) yield* Deferred.succeed(some, undefined)
            }
          })
        const writers = yield* Effect.forEach([1, 2, 3, 4, 5, 6], (name) => Effect.forkChild(Effect.flip(writer(name))))
        yield* Deferred.await(some)
        yield* trails.pause(owner, trail.id)
        const whenPaused = yield* countPages(trail.id)
        const errors = yield* Effect.forEach(writers, Fiber.join)
        for (const error of errors) assert.strictEqual(error._tag, "TrailPaused")
        assert.strictEqual(yield* countPages(trail.id), whenPaused)
        assert.strictEqual(accepted, whenPaused)
      }
    })
  )

  it.effect("makes a pause wait for a capture that is under way", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const captures = yield* Captures
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      const captured = yield* Deferred.make<void>()
      const commit = yield* Deferred.make<void>()
      const capturing = yield* captures
        .capture(owner, trail.id, { url: "https://example.org/" })
        .pipe(
          Effect.andThen(Deferred.succeed(captured, undefined)),
          Effect.andThen(Deferred.await(commit)),
          sql.withTransaction,
          Effect.forkChild
        )
      yield* Deferred.await(captured)
      const pausing = yield* Effect.forkChild(trails.pause(owner, trail.id))
      // The pause is seen to wait by the database itself.
      yield* Effect.repeat(sql`select 1 from pg_locks where not granted`, { until: (rows) => rows.length > 0 })
      assert.isUndefined(pausing.pollUnsafe())
      yield* Deferred.succeed(commit, undefined)
      yield* Fiber.join(capturing)
      yield* Fiber.join(pausing)
      assert.strictEqual(yield* countPages(trail.id), 1)
    })
  )

  it.effect("tells of a capture when it has committed, and of none that was refused", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const captures = yield* Captures
      const { owner, trail } = yield* newTrail
      const capture = captures.capture(owner, trail.id, { url: "https://example.org/" })
      const told = yield* listen(trail.id)
      yield* Effect.exit(sql.withTransaction(Effect.andThen(capture, Effect.fail("no"))))
      assert.deepStrictEqual(yield* told, [])
      const page = yield* sql.withTransaction(
        Effect.tap(capture, () => Effect.map(told, (events) => assert.deepStrictEqual(events, [])))
      )
      yield* Effect.exit(capture)
      assert.deepStrictEqual(yield* told, [{ _tag: "PageCaptured", page: page.id, url: page.url }])
    })
  )

  it.effect("enqueues what is to be done about a page in its transaction: all of it, or nothing", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const captures = yield* Captures
      const followers = yield* Followers
      const jobs = yield* Jobs.Jobs
      const { owner, trail } = yield* newTrail
      const [ada, grace] = [yield* newUser, yield* newUser]
      for (const { name } of [ada, grace]) yield* followers.add(owner, trail.id, { name })
      const url = `https://example.org/${trail.id}`
      const capture = captures.capture(owner, trail.id, { url })
      const looking = jobs.list({ worker: "MetadataWorker", args: { url } })
      yield* Effect.exit(sql.withTransaction(Effect.andThen(capture, Effect.fail("no"))))
      assert.lengthOf(yield* looking, 0)
      const page = yield* sql.withTransaction(capture)
      yield* Effect.exit(capture)
      const [look, ...others] = yield* looking
      assert.lengthOf(others, 0)
      assert.deepInclude({ ...look }, { state: "available", queue: "default", args: { pageId: page.id, url } })
      const tell = yield* jobs.list({ worker: "NotificationWorker", args: { pageId: page.id } })
      assert.deepStrictEqual(
        tell.map(({ args, maxAttempts, queue }) => ({ args, maxAttempts, queue })),
        [grace, ada].map(({ id }) => ({
          args: { pageId: page.id, userId: id },
          maxAttempts: 3,
          queue: "notifications"
        }))
      )
    })
  )

  it.effect("lists the pages newest first, and goes on after the last one", () =>
    Effect.gen(function* () {
      const captures = yield* Captures
      const { owner, trail } = yield* newTrail
      const count = listLimit + 5
      yield* Effect.forEach(
        Array.from({ length: count }, (_, n) => n),
        (n) => captures.capture(owner, trail.id, { url: `https://example.org/${n}` }),
        { discard: true }
      )
      const first = yield* captures.list(trail.id)
      const rest = yield* captures.list(trail.id, first.at(-1)?.id)
      assert.deepStrictEqual(
        [...first, ...rest].map(({ url }) => url),
        Array.from({ length: count }, (_, n) => `https://example.org/${count - 1 - n}`)
      )
      assert.lengthOf(first, listLimit)
    })
  )
})
