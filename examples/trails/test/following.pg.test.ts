import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Notifications } from "../src/Notifications.ts"
import { PageId } from "../src/Page.ts"
import { PageMetadata } from "../src/PageMetadata.ts"
import { UserId } from "../src/User.ts"
import { application, ask, askAs, newTrail } from "./fixtures/app.ts"
import { newUser } from "./fixtures/domain.ts"
import { form, json, type Response } from "./fixtures/http.ts"

const url = "https://example.org/"
const del = { method: "DELETE" }

const assertRedirect = (response: Response, location: string): void =>
  assert.deepStrictEqual([response.status, response.headers.location], [303, location])

const idOf = (response: Response) => (response.json() as { readonly id: number }).id

/** A trail with a follower who was told of a page. */
const told = Effect.gen(function* () {
  const { name: follower } = yield* newUser
  const trail = yield* newTrail
  const added = yield* askAs(trail.user, `${trail.api}/followers`, json({ name: follower }))
  assert.strictEqual(added.status, 201, added.text)
  const followerId = UserId.make(idOf(added))
  const tell = Effect.fnUntraced(function* (path: string) {
    const notifications = yield* Notifications
    const page = PageId.make(idOf(yield* askAs(trail.user, `${trail.api}/pages`, json({ url: url + path }))))
    yield* notifications.tell(followerId, page)
    return page
  })
  return { ...trail, follower, followerId, tell, first: yield* tell("1") }
})

layer(application(), { excludeTestServices: true })("JSON endpoints of followers and notifications", (it) => {
  it.effect("let an owner say who follows, and a follower leave", () =>
    Effect.gen(function* () {
      const { api, follower, followerId, id, user } = yield* told
      const followers = Effect.map(askAs(user, `${api}/followers`), (response) => response.json())
      assert.deepStrictEqual(yield* followers, [{ id: followerId, name: follower }])
      assert.deepStrictEqual((yield* askAs(follower, "/api/followed")).json(), [{ id, name: "Ridge", owner: user }])
      const path = `${api}/followers/${encodeURIComponent(follower)}`
      assert.strictEqual((yield* askAs(follower, path, del)).status, 204)
      assert.deepStrictEqual(yield* followers, [])
      yield* askAs(user, `${api}/followers`, json({ name: follower }))
      assert.strictEqual((yield* askAs(user, path, del)).status, 204)
      assert.strictEqual((yield* askAs(user, path, del)).status, 204)
      assert.deepStrictEqual(yield* followers, [])
    })
  )

  it.effect("answer with problems where there is nothing, or nothing of the user's, or nobody", () =>
    Effect.gen(function* () {
      const { api, follower, user } = yield* told
      const status = Effect.map((response: Response) => response.status)
      for (const [expected, request] of [
        [404, askAs(follower, `${api}/followers`)],
        [404, askAs(follower, `${api}/followers`, json({ name: follower }))],
        [404, askAs(follower, `${api}/followers/${encodeURIComponent(user)}`, del)],
        [404, askAs(user, "/api/trails/7/followers")],
        [422, askAs(user, `${api}/followers`, json({ name: "nobody at all" }))],
        [422, askAs(user, `${api}/followers`, json({}))],
        [422, askAs(user, "/api/notifications/read", json({ upTo: 0.5 }))],
        [422, askAs(user, "/api/notifications/read", json({ upTo: 1e15 }))],
        [422, askAs(user, "/api/notifications?before=x")],
        [422, askAs(user, `${api}/pages?before=99999999999`)],
        [401, askAs("nobody at all", "/api/notifications")],
        [403, askAs(follower, `${api}/followers/x`, { ...del, headers: { "sec-fetch-site": "cross-site" } })]
      ] as const) {
        assert.strictEqual(yield* status(request), expected)
      }
    })
  )

  it.effect("list what a user was told, and mark it as read up to what has been seen", () =>
    Effect.gen(function* () {
      const { follower, id, tell, user } = yield* told
      const list = Effect.map(
        askAs(follower, "/api/notifications"),
        (response) => response.json() as ReadonlyArray<Readonly<Record<string, unknown>>>
      )
      const [first] = yield* list
      assert.deepInclude(first, { trailId: id, trailName: "Ridge", url: `${url}1`, title: null, readAt: null })
      yield* tell("2")
      assert.strictEqual((yield* askAs(follower, "/api/notifications/read", json({ upTo: first?.["id"] }))).status, 204)
      const [second, seen] = yield* list
      assert.isNull(second?.["readAt"])
      assert.isString(seen?.["readAt"])
      const rest = yield* askAs(follower, `/api/notifications?before=${String(second?.["id"])}`)
      assert.deepStrictEqual(rest.json(), [seen])
      assert.deepStrictEqual((yield* askAs(user, "/api/notifications")).json(), [])
      assert.deepStrictEqual((yield* askAs(follower, "/api/notifications/digests")).json(), [])
    })
  )

  it.effect("show what a page says of itself", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const { api, first, user } = yield* told
      const page = Effect.map(
        askAs(user, `${api}/pages`),
        (response) => (response.json() as ReadonlyArray<Readonly<Record<string, unknown>>>)[0]
      )
      assert.deepInclude(yield* page, { title: null, description: null, metadata: "pending", fetchedAt: null })
      yield* metadata.found(first, { title: "Home", description: "Where it begins." })
      const found = yield* page
      assert.deepInclude(found, { title: "Home", description: "Where it begins.", metadata: "fetched" })
      assert.match(String(found?.["fetchedAt"]), /^\d{4}-.*Z$/)
    })
  )
})

layer(application(), { excludeTestServices: true })("Pages of followers and notifications", (it) => {
  it.effect("add and remove followers, and show what is wrong beside the field", () =>
    Effect.gen(function* () {
      const { name: ada } = yield* newUser
      const { page, user } = yield* newTrail
      const add = (follower: string) => askAs(user, `${page}/followers`, form({ follower }))
      assertRedirect(yield* add(ada), page)
      assert.include((yield* askAs(user, page)).text, `aria-label="Remove ${ada}"`)
      const wrong = yield* add("nobody at all")
      assert.strictEqual(wrong.status, 422)
      assert.include(wrong.text, `value="nobody at all"`)
      assert.include(wrong.text, "is the name of nobody")
      assertRedirect(yield* askAs(user, `${page}/followers/remove`, form({ name: ada })), page)
      assert.notInclude((yield* askAs(user, page)).text, `aria-label="Remove ${ada}"`)
      assertRedirect(yield* askAs(user, `${page}/followers`), page)
      assert.strictEqual((yield* askAs(ada, `${page}/followers`, form({ follower: ada }))).status, 404)
    })
  )

  it.effect("show what is new on every page until it is marked as read, and let a follower leave", () =>
    Effect.gen(function* () {
      const { follower, followerId, id, tell } = yield* told
      const notifications = yield* Notifications
      yield* tell("2")
      const badge = (count: number) => `<a href="/notifications">Notifications <span class="badge">${count}</span></a>`
      assert.include((yield* askAs(follower, "/")).text, badge(2))
      const shown = (yield* askAs(follower, "/notifications")).text
      assert.include(shown, `<a href="${url}1"`)
      assert.include(shown, "in Ridge")
      const upTo = /name="upTo" value="(\d+)"/.exec(shown)?.[1] ?? ""
      yield* tell("3")
      assertRedirect(yield* askAs(follower, "/notifications/read", form({ upTo })), "/notifications")
      assert.strictEqual(yield* notifications.unread(followerId), 1)
      assert.include((yield* askAs(follower, "/notifications")).text, badge(1))
      assertRedirect(yield* askAs(follower, "/notifications/leave", form({ trail: id })), "/notifications")
      assertRedirect(yield* askAs(follower, "/notifications/leave", form({ trail: id })), "/notifications")
      assert.notInclude((yield* askAs(follower, "/notifications")).text, "Trails that you follow")
      for (const path of ["read", "leave"]) {
        assertRedirect(yield* askAs(follower, `/notifications/${path}`), "/notifications")
        assert.strictEqual(
          (yield* askAs(follower, `/notifications/${path}`, form({ upTo: "x", trail: "x" }))).status,
          422
        )
      }
      assert.strictEqual((yield* ask("/notifications")).status, 200)
    })
  )

  it.effect("escape what pages say of themselves", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const { first, follower, page, user } = yield* told
      const evil = `"><script>alert(1)</script><img src=x onerror="alert(2)">`
      yield* metadata.found(first, { title: evil, description: evil })
      for (const { text } of [yield* askAs(user, page), yield* askAs(follower, "/notifications")]) {
        assert.notMatch(text, /<script>|<img/)
        assert.include(text, "&#60;script&#62;")
      }
    })
  )

  it.effect("say when a page is being looked at, and when it could not be read", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const { first, page, user } = yield* told
      assert.include((yield* askAs(user, page)).text, "looking at the page")
      yield* metadata.missing(first)
      const shown = (yield* askAs(user, page)).text
      assert.notInclude(shown, "looking at the page")
      assert.include(shown, "the page could not be read")
    })
  )
})
