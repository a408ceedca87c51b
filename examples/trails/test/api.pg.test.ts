import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { application, ask, askAs, newTrail } from "./fixtures/app.ts"
import { newUser } from "./fixtures/domain.ts"
import { form, json, type Response } from "./fixtures/http.ts"

const url = "https://example.org/"

/** Checks the whole shape of a problem, and gives its own members. */
const assertProblem = (response: Response, status: number, type: string): Readonly<Record<string, unknown>> => {
  assert.strictEqual(response.status, status, response.text)
  assert.strictEqual(response.headers["content-type"], "application/problem+json")
  assert.strictEqual(response.headers["x-content-type-options"], "nosniff")
  const { detail, status: said, title, type: kind, ...own } = response.json() as Record<string, unknown>
  assert.deepStrictEqual([said, kind], [status, `urn:trails:${type}`])
  assert.isString(title)
  assert.match(String(detail), /\.$/)
  return own
}

layer(application(), { excludeTestServices: true })("JSON endpoints", (it) => {
  it.effect("start, show, rename, pause and resume a trail, and capture and list its pages", () =>
    Effect.gen(function* () {
      const { api, id, user } = yield* newTrail
      const captured = yield* askAs(user, `${api}/pages`, json({ url, title: "Home" }))
      assert.strictEqual(captured.status, 201)
      assert.strictEqual(captured.headers["content-type"], "application/json")
      const page = captured.json() as Record<string, unknown>
      assert.deepInclude(page, { url, title: "Home", trailId: id })
      assert.deepStrictEqual((yield* askAs(user, `${api}/pages`)).json(), [page])
      assert.deepInclude((yield* askAs(user, api)).json(), { id, name: "Ridge", pages: 1, version: 1 })
      const renamed = yield* askAs(user, api, json({ name: "Valley", version: 1 }, "PATCH"))
      assert.deepInclude(renamed.json(), { name: "Valley", version: 2 })
      assert.deepInclude((yield* askAs(user, `${api}/pause`, { method: "POST" })).json(), { status: "paused" })
      assert.deepInclude((yield* askAs(user, api)).json(), { status: "paused", name: "Valley" })
      assert.deepInclude((yield* askAs(user, `${api}/resume`, { method: "POST" })).json(), { status: "active" })
      const list = (yield* askAs(user, "/api/trails")).json()
      assert.deepStrictEqual(list, [(yield* askAs(user, api)).json()])
    })
  )

  it.effect("know a trail by one spelling of its id, so that no other one shows it as it was before a change", () =>
    Effect.gen(function* () {
      const { api, id, user } = yield* newTrail
      assert.notStrictEqual(id, id.toUpperCase())
      const shouted = api.replace(id, id.toUpperCase())
      yield* askAs(user, api)
      assertProblem(yield* askAs(user, shouted), 404, "not-found")
      assertProblem(yield* askAs(user, `${shouted}/pages`, json({ url })), 404, "not-found")
      assert.deepInclude((yield* askAs(user, api)).json(), { pages: 0 })
    })
  )

  it.effect("page through a long trail", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      for (const n of [1, 2, 3]) yield* askAs(user, `${api}/pages`, json({ url: url + n }))
      const [, second] = (yield* askAs(user, `${api}/pages`)).json() as ReadonlyArray<{ readonly id: number }>
      const rest = (yield* askAs(user, `${api}/pages?before=${second?.id}`)).json()
      assert.lengthOf(rest as ReadonlyArray<unknown>, 1)
      const own = assertProblem(yield* askAs(user, `${api}/pages?before=soon`), 422, "invalid-input")
      assert.hasAllKeys(own["fields"], ["before"])
    })
  )

  it.effect("answer 400 to a body that is not well-formed JSON", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      for (const body of ["", "{", "{'url':1}", "undefined"]) {
        const response = yield* askAs(user, `${api}/pages`, { ...json(null), body })
        assertProblem(response, 400, "malformed-body")
      }
    })
  )

  it.effect("answer 401 to a user that nobody is", () =>
    Effect.gen(function* () {
      assertProblem(yield* askAs("nobody", "/api/trails"), 401, "unknown-user")
    })
  )

  it.effect("answer 404 to a trail that is not there, or is not the user's, and to an address that leads nowhere", () =>
    Effect.gen(function* () {
      const { api, id } = yield* newTrail
      const { name: stranger } = yield* newUser
      const missing = `/api/trails/${id.replace(/.$/, (last) => (last === "0" ? "1" : "0"))}`
      for (const address of [api, missing, "/api/trails/7", "/api/trails/%00", "/api/trails/..%2f"]) {
        assertProblem(yield* askAs(stranger, address), 404, "not-found")
        assertProblem(yield* askAs(stranger, `${address}/pages`), 404, "not-found")
        assertProblem(yield* askAs(stranger, `${address}/pages`, json({ url })), 404, "not-found")
        assertProblem(yield* askAs(stranger, address, json({ name: "Mine", version: 1 }, "PATCH")), 404, "not-found")
        assertProblem(yield* askAs(stranger, `${address}/pause`, { method: "POST" }), 404, "not-found")
        assertProblem(yield* askAs(stranger, `${address}/resume`, { method: "POST" }), 404, "not-found")
      }
      assertProblem(yield* ask("/api/nothing"), 404, "not-found")
      assertProblem(yield* ask(api, { method: "DELETE" }), 404, "not-found")
    })
  )

  it.effect("answer 409 to a capture into a paused trail, to a second pause, and to a rename of what has changed", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      assertProblem(yield* askAs(user, `${api}/resume`, { method: "POST" }), 409, "conflict")
      yield* askAs(user, `${api}/pause`, { method: "POST" })
      assertProblem(yield* askAs(user, `${api}/pages`, json({ url })), 409, "paused")
      assertProblem(yield* askAs(user, `${api}/pause`, { method: "POST" }), 409, "conflict")
      assertProblem(yield* askAs(user, api, json({ name: "Valley", version: 1 }, "PATCH")), 409, "conflict")
    })
  )

  it.effect("answer 413 to a body that is too large, however it is sent", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      const body = JSON.stringify({ url, title: "x".repeat(70_000) })
      for (const headers of [{}, { "transfer-encoding": "chunked" }]) {
        const response = yield* askAs(user, `${api}/pages`, {
          method: "POST",
          headers: { "content-type": "application/json", ...headers },
          body
        })
        assertProblem(response, 413, "body-too-large")
      }
      assert.deepStrictEqual((yield* askAs(user, `${api}/pages`)).json(), [])
    })
  )

  it.effect("answer 415 to a body that does not say that it is JSON", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""]) {
        const request = { method: "POST", headers: { "content-type": type }, body: JSON.stringify({ url }) }
        assertProblem(yield* askAs(user, `${api}/pages`, request), 415, "not-json")
      }
      const request = { ...json({ url }), headers: { "content-type": "application/json; charset=utf-8" } }
      assert.strictEqual((yield* askAs(user, `${api}/pages`, request)).status, 201)
    })
  )

  it.effect("answer 422 to invalid input, with every field that is wrong", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      const fieldsOf = (path: string, body: unknown, method?: string) =>
        Effect.map(askAs(user, path, json(body, method)), (response) => assertProblem(response, 422, "invalid-input"))
      assert.deepStrictEqual(yield* fieldsOf(`${api}/pages`, { url: "javascript:alert(1)", title: 7 }), {
        fields: { url: ["must be an http or https address"], title: ["must be a string"] }
      })
      assert.deepStrictEqual(yield* fieldsOf("/api/trails", { name: "" }), { fields: { name: ["must not be empty"] } })
      assert.deepStrictEqual(yield* fieldsOf(api, { name: "Valley" }, "PATCH"), {
        fields: { version: ["is required"] }
      })
      assert.deepStrictEqual(yield* fieldsOf("/api/trails", []), { fields: { $: ["must be an object"] } })
    })
  )

  it.effect("answer 422 to a page that the trail holds already, and to a name that is taken", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      yield* askAs(user, `${api}/pages`, json({ url }))
      assert.deepStrictEqual(
        assertProblem(yield* askAs(user, `${api}/pages`, json({ url: `${url}#again` })), 422, "invalid-input"),
        { fields: { url: ["is in this trail already"] } }
      )
      assert.deepStrictEqual(
        assertProblem(yield* askAs(user, "/api/trails", json({ name: "Ridge" })), 422, "invalid-input"),
        { fields: { name: ["is the name of another trail of yours"] } }
      )
    })
  )

  it.effect("answer 403 to a change that another site asks for", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      for (const headers of [
        { "sec-fetch-site": "cross-site" },
        { "sec-fetch-site": "same-site" },
        { origin: "https://example.org" },
        { origin: "null" },
        { origin: "http://127.0.0.1:1" }
      ]) {
        for (const request of [json({ url }), form({ url })]) {
          const { "sec-fetch-site": _, ...rest } = request.headers ?? {}
          const response = yield* askAs(user, `${api}/pages`, { ...request, headers: { ...rest, ...headers } })
          assertProblem(response, 403, "cross-site")
        }
      }
      assert.deepStrictEqual((yield* askAs(user, `${api}/pages`)).json(), [])
    })
  )

  it.effect("answer 421 to a name that is not this machine's, which another site may have given it", () =>
    Effect.gen(function* () {
      for (const host of ["example.org", "localhost.example.org", "127.0.0.1.example.org:4000", "[::2]"]) {
        assertProblem(yield* ask("/api/trails", { headers: { host } }), 421, "wrong-host")
      }
      for (const host of ["localhost", "LOCALHOST:4000", "127.0.0.1", "[::1]:4000"]) {
        assert.notStrictEqual((yield* ask("/api/trails", { headers: { host } })).status, 421, host)
      }
    })
  )

  it.effect("are described for other programs", () =>
    Effect.gen(function* () {
      const description = (yield* ask("/api/openapi.json")).json() as { readonly paths: Record<string, unknown> }
      assert.includeMembers(Object.keys(description.paths), ["/api/trails", "/api/trails/{id}/pages"])
    })
  )
})

// One more capture is allowed every 20 seconds, which is longer than the test takes.
layer(application({ capturesPerMinute: 3 }), { excludeTestServices: true })("JSON endpoints", (it) => {
  it.effect("answer 429 to captures beyond the limit of the user, and say when to come back", () =>
    Effect.gen(function* () {
      const { api, user } = yield* newTrail
      const other = yield* newTrail
      const responses = yield* Effect.all(
        Array.from({ length: 5 }, (_, n) => askAs(user, `${api}/pages`, json({ url: url + n }))),
        { concurrency: 5 }
      )
      const refused = responses.filter(({ status }) => status !== 201)
      assert.lengthOf(refused, 2)
      for (const response of refused) {
        const { retryAfterSeconds } = assertProblem(response, 429, "too-many-captures")
        assert.isTrue(Number(retryAfterSeconds) >= 1 && Number(retryAfterSeconds) <= 20)
        assert.strictEqual(response.headers["retry-after"], String(retryAfterSeconds))
      }
      assert.strictEqual((yield* askAs(other.user, `${other.api}/pages`, json({ url }))).status, 201)
    })
  )
})
