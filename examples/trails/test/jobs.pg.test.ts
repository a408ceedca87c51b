import { type Job, Jobs } from "@coppice/jobs"
import { Tree } from "@coppice/supervision"
import { assert, layer } from "@effect/vitest"
import { DateTime, Effect, Fiber, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import type { HtmlHead } from "../src/fetching/HtmlHead.ts"
import { Notifications } from "../src/Notifications.ts"
import { PageFetcher, PageUnavailable, PageUnreadable } from "../src/PageFetcher.ts"
import { UserId } from "../src/User.ts"
import { application, askAs, newTrail } from "./fixtures/app.ts"
import { newUser } from "./fixtures/domain.ts"
import { json } from "./fixtures/http.ts"

/** A web in which a page says of itself what its address says of it. */
const web = PageFetcher.of({
  fetch: (url): Effect.Effect<HtmlHead, PageUnavailable | PageUnreadable> => {
    const { pathname } = new URL(url)
    if (pathname.startsWith("/gone")) {
      return new PageUnreadable({ url, reason: "client-error", detail: "the server answers with status 404" })
    }
    if (pathname.startsWith("/busy")) {
      return new PageUnavailable({ url, reason: "too-many-requests", detail: "not now", retryAfterSeconds: 3600 })
    }
    if (pathname.startsWith("/down")) return new PageUnavailable({ url, reason: "unreachable", detail: "not now" })
    if (pathname.startsWith("/broken")) return Effect.die(new Error("a mistake of ours"))
    return Effect.succeed({ title: `Title of ${pathname}`, description: `About ${pathname}` })
  }
})

interface PageJson {
  readonly id: number
  readonly url: string
  readonly title: string | null
  readonly description: string | null
  readonly metadata: string
}

/** Looks again until it is so: what is waited for happens in sockets, which no test clock moves. */
const until = <A, E, R>(look: Effect.Effect<A, E, R>, so: (value: A) => boolean) =>
  Effect.repeat(look, { until: so, schedule: Schedule.spaced("20 millis") })

/** A trail, captures into it, and what the application has of them. */
const trailOf = Effect.gen(function* () {
  const jobs = yield* Jobs.Jobs
  const trail = yield* newTrail
  const capture = Effect.fnUntraced(function* (path: string, title?: string) {
    const url = `https://${trail.id}.example${path}`
    const response = yield* askAs(
      trail.user,
      `${trail.api}/pages`,
      json({ url, ...(title !== undefined && { title }) })
    )
    assert.strictEqual(response.status, 201, response.text)
    return response.json() as PageJson
  })
  const pages = Effect.map(
    askAs(trail.user, `${trail.api}/pages`),
    (response) => response.json() as ReadonlyArray<PageJson>
  )
  /** The job that looks at a page. */
  const jobOf = ({ id }: PageJson) =>
    Effect.map(jobs.list({ worker: "MetadataWorker", args: { pageId: id } }), ([job]): Job.JobRecord | undefined => job)
  return { ...trail, capture, pages, jobOf, jobs }
})

layer(application({ web }), { excludeTestServices: true })("A capture", (it) => {
  it.effect("is soon followed by what the page says of itself, and keeps the title that the user gave", () =>
    Effect.gen(function* () {
      const { capture, pages } = yield* trailOf
      yield* capture("/a")
      yield* capture("/b", "Mine")
      const [b, a] = yield* until(pages, (all) => all.every(({ metadata }) => metadata === "fetched"))
      assert.deepInclude(a, { title: "Title of /a", description: "About /a" })
      assert.deepInclude(b, { title: "Mine", description: "About /b" })
    })
  )

  it.effect("is looked at no more when there is no page: the job ends as cancelled, and says why", () =>
    Effect.gen(function* () {
      const { capture, jobOf, pages } = yield* trailOf
      const page = yield* capture("/gone")
      const job = yield* until(jobOf(page), (found) => found?.state === "cancelled")
      assert.deepInclude((yield* pages)[0], { title: null, metadata: "missing" })
      assert.strictEqual(job?.attempt, 1)
      assert.include(JSON.stringify(job?.errors), "status 404")
    })
  )

  it.effect("is looked at again when the page is not available, five times in all", () =>
    Effect.gen(function* () {
      const { capture, jobOf, jobs, pages } = yield* trailOf
      const page = yield* capture("/down")
      for (const [attempt, seconds] of [5, 20, 80, 320].entries()) {
        const job = yield* until(jobOf(page), (found) => found?.state === "retryable" && found.attempt === attempt + 1)
        assert(job?.attemptedAt !== undefined)
        const wait = DateTime.toEpochMillis(job.scheduledAt) - DateTime.toEpochMillis(job.attemptedAt)
        assert.isAtLeast(wait, seconds * 1000)
        assert.isBelow(wait, seconds * 1000 + 5000)
        assert.strictEqual((yield* pages)[0]?.metadata, "pending")
        yield* jobs.retry({ id: job.id })
      }
      const last = yield* until(jobOf(page), (found) => found?.state === "discarded")
      assert.lengthOf(last?.errors ?? [], 5)
      assert.strictEqual((yield* pages)[0]?.metadata, "missing")
    })
  )

  it.effect("leaves a server alone for as long as it asks", () =>
    Effect.gen(function* () {
      const { capture, jobOf } = yield* trailOf
      const page = yield* capture("/busy")
      const job = yield* until(jobOf(page), (found) => found?.state === "retryable")
      assert(job?.attemptedAt !== undefined)
      const wait = DateTime.toEpochMillis(job.scheduledAt) - DateTime.toEpochMillis(job.attemptedAt)
      assert.isAtLeast(wait, 3_600_000)
    })
  )

  it.effect("survives a mistake in the code that looks at the page, and does not wait for it for ever", () =>
    Effect.gen(function* () {
      const { capture, jobOf, jobs, pages } = yield* trailOf
      const page = yield* capture("/broken")
      for (const attempt of [1, 2, 3, 4]) {
        const job = yield* until(jobOf(page), (found) => found?.state === "retryable" && found.attempt === attempt)
        assert.include(JSON.stringify(job?.errors), "a mistake of ours")
        assert.strictEqual((yield* pages)[0]?.metadata, "pending")
        yield* jobs.retry({ worker: "MetadataWorker", args: { pageId: page.id } })
      }
      yield* until(jobOf(page), (found) => found?.state === "discarded")
      assert.strictEqual((yield* pages)[0]?.metadata, "missing")
    })
  )

  it.effect("is told to those who follow the trail, and to nobody else", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const { api, capture, jobs, user } = yield* trailOf
      const [ada, grace, stranger] = [yield* newUser, yield* newUser, yield* newUser]
      for (const { name } of [ada, grace]) yield* askAs(user, `${api}/followers`, json({ name }))
      const captured = yield* Effect.forEach(["/1", "/2", "/3"], (path) => capture(path))
      const ofTrail = jobs.list({ worker: "NotificationWorker", args: { userId: grace.id } })
      yield* until(ofTrail, (all) => all.length === 3 && all.every(({ state }) => state === "completed"))
      for (const { id } of [ada, grace]) {
        const told = yield* until(notifications.list(id), (all) => all.length === 3)
        assert.sameMembers(
          told.map(({ url }) => url),
          captured.map(({ url }) => url)
        )
      }
      assert.deepStrictEqual(yield* notifications.list(stranger.id), [])
    })
  )
})

layer(application({ web }), { excludeTestServices: true })("The nightly digest", (it) => {
  it.effect("is due at three, and is about the day before", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const notifications = yield* Notifications
      const { api, capture, jobs, user } = yield* trailOf
      const ada = yield* newUser
      yield* askAs(user, `${api}/followers`, json({ name: ada.name }))
      yield* capture("/1")
      yield* capture("/2")
      yield* until(notifications.list(ada.id), (all) => all.length === 2)
      yield* sql`update notifications set created_at = created_at - interval '1 day' where user_id = ${ada.id}`
      const entry = (yield* jobs.cron.list).find(({ name }) => name === "digest")
      assert.deepInclude({ ...entry }, { expression: "0 3 * * *", timeZone: "UTC", worker: "DigestWorker" })
      yield* jobs.cron.runNow("digest")
      const [digest] = yield* until(notifications.digests(ada.id), (all) => all.length === 1)
      const yesterday = DateTime.formatIsoDateUtc(DateTime.subtract(yield* DateTime.now, { days: 1 }))
      assert.deepStrictEqual({ ...digest }, { day: yesterday, pages: 2, trails: 1 })
      const shown = yield* askAs(ada.name, "/notifications")
      assert.include(shown.text, `${yesterday}: 2 pages in 1 trail`)
      assert.deepStrictEqual(yield* notifications.digests(UserId.make(2_000_000_000)), [])
    })
  )
})

layer(application({ web }), { excludeTestServices: true })("When the queue or a process of it crashes", (it) => {
  it.effect("every capture is taken, every page is looked at, and every follower is told once", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const { api, capture, pages, user } = yield* trailOf
      const ada = yield* newUser
      yield* askAs(user, `${api}/followers`, json({ name: ada.name }))
      let captured = 0
      for (const path of [
        "/heartbeat",
        "/settler",
        "/listener",
        "/poll",
        "/cron",
        "/queues/default",
        "/queues/notifications",
        // All of it at once.
        ""
      ]) {
        const captures = yield* Effect.forkChild(
          Effect.forEach(
            Array.from({ length: 10 }, () => `/${++captured}`),
            (path) => capture(path),
            { concurrency: 10 }
          )
        )
        yield* Tree.kill(`Trails/jobs${path}`)
        yield* Fiber.join(captures)
      }
      yield* until(pages, (all) => all.length === captured && all.every(({ metadata }) => metadata === "fetched"))
      yield* until(notifications.list(ada.id), (all) => all.length === captured)
      assert.strictEqual((yield* Tree.get("Trails/jobs")).restarts, 1)
      assert.strictEqual((yield* Tree.get("Trails/web")).restarts, 0)
    })
  )
})
