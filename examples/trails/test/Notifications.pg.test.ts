import { assert, layer } from "@effect/vitest"
import { DateTime, Effect } from "effect"
import { TestClock } from "effect/testing"
import { Captures } from "../src/Captures.ts"
import { Followers } from "../src/Followers.ts"
import { listLimit, Notifications } from "../src/Notifications.ts"
import { PageMetadata } from "../src/PageMetadata.ts"
import { Domain, newTrail, newUser } from "./fixtures/domain.ts"

/** A trail with a follower, and captures into it. */
const followed = Effect.gen(function* () {
  const followers = yield* Followers
  const captures = yield* Captures
  const { owner, trail } = yield* newTrail
  const follower = yield* newUser
  yield* followers.add(owner, trail.id, { name: follower.name })
  const capture = (n: number) => captures.capture(owner, trail.id, { url: `https://example.org/${n}` })
  return { owner, trail, follower, capture }
})

layer(Domain)("Notifications", (it) => {
  it.effect("tell a follower of a page once, however many say it at once", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const { capture, follower, trail } = yield* followed
      const page = yield* capture(1)
      yield* Effect.all(
        Array.from({ length: 8 }, () => notifications.tell(follower.id, page.id)),
        { concurrency: "unbounded" }
      )
      const [notification, ...others] = yield* notifications.list(follower.id)
      assert.deepInclude(
        { ...notification },
        { trailId: trail.id, trailName: "Ridge", url: page.url, title: null, readAt: null }
      )
      assert.deepStrictEqual(others, [])
    })
  )

  it.effect("call a page by the name that it has by now", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const metadata = yield* PageMetadata
      const { capture, follower } = yield* followed
      const page = yield* capture(1)
      yield* notifications.tell(follower.id, page.id)
      yield* metadata.found(page.id, { title: "Home", description: null })
      assert.strictEqual((yield* notifications.list(follower.id))[0]?.title, "Home")
    })
  )

  it.effect("tell nothing to those who do not follow, or no longer", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const followers = yield* Followers
      const { capture, follower, owner, trail } = yield* followed
      const page = yield* capture(1)
      yield* followers.remove(follower.id, trail.id, follower.name)
      for (const user of [follower.id, owner]) {
        yield* notifications.tell(user, page.id)
        assert.deepStrictEqual(yield* notifications.list(user), [])
      }
    })
  )

  it.effect("stay unread until they have been seen; those that came later stay unread", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const { capture, follower } = yield* followed
      const other = yield* followed
      for (const { capture: add, follower: to } of [{ capture, follower }, other]) {
        for (const n of [1, 2, 3]) yield* notifications.tell(to.id, (yield* add(n)).id)
      }
      assert.strictEqual(yield* notifications.unread(follower.id), 3)
      const [latest, seen] = yield* notifications.list(follower.id)
      assert(latest !== undefined && seen !== undefined)
      yield* notifications.markRead(follower.id, seen.id)
      yield* notifications.markRead(follower.id, seen.id)
      assert.deepStrictEqual(
        (yield* notifications.list(follower.id)).map(({ readAt }) => readAt === null),
        [true, false, false]
      )
      assert.strictEqual(yield* notifications.unread(follower.id), 1)
      assert.strictEqual(yield* notifications.unread(other.follower.id), 3)
    })
  )

  it.effect("are listed newest first, and go on after the last one", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const { capture, follower } = yield* followed
      for (let n = 0; n < listLimit + 5; n++) yield* notifications.tell(follower.id, (yield* capture(n)).id)
      const first = yield* notifications.list(follower.id)
      const rest = yield* notifications.list(follower.id, first.at(-1)?.id)
      assert.lengthOf(first, listLimit)
      assert.deepStrictEqual(
        [...first, ...rest].map(({ url }) => url),
        Array.from({ length: listLimit + 5 }, (_, n) => `https://example.org/${listLimit + 4 - n}`)
      )
    })
  )

  it.effect("of a day are told again in numbers: once, to everybody who was told something", () =>
    Effect.gen(function* () {
      const notifications = yield* Notifications
      const followers = yield* Followers
      const at = (text: string) => DateTime.makeUnsafe(text)
      const [from, until] = [at("2026-11-22T23:00:00Z"), at("2026-11-23T23:00:00Z")]
      const one = yield* followed
      const other = yield* followed
      yield* followers.add(other.owner, other.trail.id, { name: one.follower.name })
      const tellAt = Effect.fnUntraced(function* (time: string, which: typeof one, n: number) {
        yield* TestClock.setTime(DateTime.toEpochMillis(at(time)))
        const page = yield* which.capture(n)
        for (const user of [one.follower, other.follower]) yield* notifications.tell(user.id, page.id)
      })
      yield* tellAt("2026-11-22T22:59:59.999Z", one, 0)
      yield* tellAt("2026-11-22T23:00:00Z", one, 1)
      yield* tellAt("2026-11-23T12:00:00Z", one, 2)
      yield* tellAt("2026-11-23T22:59:59.999Z", other, 3)
      yield* tellAt("2026-11-23T23:00:00Z", other, 4)
      const written = yield* Effect.all(
        Array.from({ length: 4 }, () => notifications.digest("2026-11-23", from, until)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(
        written.reduce((sum, count) => sum + count),
        2
      )
      const digest = (pages: number, trails: number) => ({ day: "2026-11-23", pages, trails })
      const digests = (of: typeof one) =>
        Effect.map(notifications.digests(of.follower.id), (all) => all.map((digest) => ({ ...digest })))
      assert.deepStrictEqual(yield* digests(one), [digest(3, 2)])
      assert.deepStrictEqual(yield* digests(other), [digest(1, 1)])
      assert.strictEqual(yield* notifications.digest("2026-12-24", at("2026-12-24"), at("2026-12-25")), 0)
    })
  )
})
