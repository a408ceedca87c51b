import { Tree } from "@coppice/supervision"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import { application, ask, askAs, newTrail } from "./fixtures/app.ts"
import { form, json, type Response } from "./fixtures/http.ts"

const url = "https://example.org/"

const assertPage = (response: Response, status: number): string => {
  assert.strictEqual(response.status, status, response.text)
  assert.strictEqual(response.headers["content-type"], "text/html; charset=utf-8")
  assert.include(response.headers["content-security-policy"], "default-src 'none'")
  assert.match(response.text, /^<!doctype html>/)
  return response.text
}

const assertRedirect = (response: Response, location: string): void =>
  assert.deepStrictEqual([response.status, response.headers.location], [303, location])

layer(application(), { excludeTestServices: true })("Pages", (it) => {
  it.effect("greet a new visitor with a trail that has something in it", () =>
    Effect.gen(function* () {
      const home = assertPage(yield* ask("/"), 200)
      assert.include(home, "How to let it crash")
      const trail = /\/trails\/[-0-9a-f]+/.exec(home)?.[0] ?? ""
      assert.include(assertPage(yield* ask(trail), 200), "https://www.erlang.org/doc/system/sup_princ.html")
    })
  )

  it.effect("start a trail by a form, and show what is wrong beside the field", () =>
    Effect.gen(function* () {
      const { user } = yield* newTrail
      const started = yield* askAs(user, "/trails", form({ name: "Valley" }))
      assert.match(String(started.headers.location), /^\/trails\/[-0-9a-f]{36}$/)
      assert.include(assertPage(yield* askAs(user, String(started.headers.location)), 200), "<h1>Valley</h1>")
      const again = assertPage(yield* askAs(user, "/trails", form({ name: "Valley" })), 422)
      assert.include(again, `value="Valley"`)
      assert.include(again, "is the name of another trail of yours")
    })
  )

  it.effect("capture by a form, pause, resume and rename, without a script", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      assertRedirect(yield* askAs(user, `${page}/pages`, form({ url, title: "" })), page)
      assert.include(assertPage(yield* askAs(user, page), 200), `<a href="${url}"`)
      assertRedirect(yield* askAs(user, `${page}/pause`, form({})), page)
      assertRedirect(yield* askAs(user, `${page}/pause`, form({})), page)
      assert.include(assertPage(yield* askAs(user, page), 200), `action="${page}/resume"`)
      const refused = assertPage(yield* askAs(user, `${page}/pages`, form({ url: `${url}late`, title: "Late" })), 409)
      assert.include(refused, "is paused. Resume it")
      assert.include(refused, `value="${url}late"`)
      assertRedirect(yield* askAs(user, `${page}/resume`, form({})), page)
      assertRedirect(yield* askAs(user, `${page}/name`, form({ name: "Valley", version: "3" })), page)
      assert.include(assertPage(yield* askAs(user, page), 200), "<h1>Valley</h1>")
      assert.include(
        assertPage(yield* askAs(user, `${page}/name`, form({ name: "Hill", version: "3" })), 409),
        "was changed"
      )
      assert.include(
        assertPage(yield* askAs(user, `${page}/name`, form({ name: "", version: "4" })), 422),
        "must not be empty"
      )
      assert.include(assertPage(yield* askAs(user, `${page}/name`, form({ name: "Hill" })), 422), "<h1>Valley</h1>")
    })
  )

  it.effect("lead from the address of a form back to the page that it is on", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      assertRedirect(yield* askAs(user, `${page}/pages`), page)
      assertRedirect(yield* askAs(user, `${page}/name`), page)
      assertRedirect(yield* askAs(user, "/trails"), "/")
      assertPage(yield* askAs(user, "/trails/7/pages"), 404)
    })
  )

  it.effect("say what is missing: a trail, an address, a user", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      const stranger = yield* newTrail
      assertPage(yield* ask("/nothing"), 404)
      assertPage(yield* ask("/trails/7"), 404)
      assertPage(yield* askAs("nobody", "/"), 401)
      assertPage(yield* askAs(stranger.user, page), 404)
      assertPage(yield* askAs(stranger.user, `${page}/pages`, form({ url })), 404)
      assertPage(yield* askAs(stranger.user, `${page}/pause`, form({})), 404)
      assert.notInclude(assertPage(yield* askAs(user, page), 200), "badge-paused")
    })
  )

  it.effect("refuse a body that is too large, or that is not a form, with a page", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      assertPage(yield* askAs(user, `${page}/pages`, form({ url, title: "x".repeat(70_000) })), 413)
      assertPage(yield* askAs(user, `${page}/pages`, { method: "POST", body: "\u0000{" }), 422)
    })
  )

  it.effect("refuse forms that another site sends", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      for (const headers of [
        { "sec-fetch-site": "cross-site" },
        { origin: "https://evil.example" },
        { origin: "null" }
      ]) {
        const request = { ...form({ url, path: "Trails/trail-cache", name: "x" }), headers }
        for (const path of ["/trails", `${page}/pages`, `${page}/pause`, `${page}/name`, "/processes/crash"]) {
          assertPage(yield* askAs(user, path, request), 403)
        }
      }
      assert.strictEqual((yield* Tree.get("Trails/trail-cache")).restarts, 0)
    })
  )

  it.effect("escape whatever people wrote, wherever it is shown", () =>
    Effect.gen(function* () {
      const { page, user } = yield* newTrail
      const evil = `"><script>alert('1')</script><img src=x onerror="alert(2)">`
      const attribute = `" onfocus="alert(3)`
      yield* askAs(user, `${page}/name`, form({ name: evil, version: "1" }))
      yield* askAs(user, `${page}/pages`, form({ url: `${url}?${evil}`, title: evil }))
      yield* askAs(user, `${page}/pages`, form({ url: `${url}'${attribute}`, title: attribute }))
      const shown = [
        yield* askAs(user, page),
        yield* askAs(user, "/"),
        yield* askAs(user, `${page}/pages`, form({ url: evil, title: attribute })),
        yield* askAs(user, `${page}/name`, form({ name: attribute.repeat(9), version: "2" })),
        yield* askAs(user, "/trails", form({ name: evil.repeat(2) })),
        yield* ask(`/${encodeURIComponent(evil)}`),
        yield* askAs(evil, "/"),
        yield* askAs(user, "/processes/crash", form({ path: `Trails/${evil}` }))
      ]
      for (const { text } of shown) {
        assert.notMatch(text, /<script>|<img|" onfocus=/)
        // The only script is the page's own.
        assert.deepStrictEqual(text.match(/<script[^>]*>/g), [`<script src="/assets/page.js" type="module">`])
      }
      assert.include(shown[0]?.text, "&#60;script&#62;")
    })
  )

  it.effect("link nowhere but to the web, even if something else got into the table", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { id, page, user } = yield* newTrail
      yield* sql`alter table pages drop constraint pages_url_check`
      yield* sql`insert into pages (trail_id, url, captured_at) values (${id}, ${"javascript:alert(1)"}, now())`
      const shown = assertPage(yield* askAs(user, page), 200)
      assert.include(shown, "javascript:alert(1)")
      assert.notMatch(shown, /href="javascript:/)
    })
  )

  it.effect("bring their style and script from this server, and allow no other", () =>
    Effect.gen(function* () {
      for (const [path, type] of [
        ["/assets/page.css", "text/css; charset=utf-8"],
        ["/assets/page.js", "text/javascript; charset=utf-8"]
      ] as const) {
        const response = yield* ask(path)
        assert.deepStrictEqual([response.status, response.headers["content-type"]], [200, type])
      }
      assertPage(yield* ask("/assets/..%2fpage.css"), 404)
      assertPage(yield* ask("/assets/../Web.ts"), 404)
    })
  )
})

// One more capture is allowed every 20 seconds, which is longer than the test takes.
layer(application({ capturesPerMinute: 3 }), { excludeTestServices: true })("Pages", (it) => {
  it.effect("refuse too many captures with the time to wait, and keep what was typed", () =>
    Effect.gen(function* () {
      const { api, page, user } = yield* newTrail
      for (const n of [1, 2, 3]) yield* askAs(user, `${api}/pages`, json({ url: `${url}${n}` }))
      const refused = yield* askAs(user, `${page}/pages`, form({ url, title: "Again" }))
      const shown = assertPage(refused, 429)
      assert.include(shown, `Try again in ${refused.headers["retry-after"]} second`)
      assert.include(shown, `value="Again"`)
    })
  )
})
