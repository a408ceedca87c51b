import { assert, describe, it } from "@effect/vitest"
import { ByteSize, Context, Deferred, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import type { LookupFunction } from "node:net"
import { gzipSync } from "node:zlib"
import { type Options, PageFetcher } from "../src/PageFetcher.ts"
import { type Answer, html, serve } from "./fixtures/web.ts"

// In these tests 127.0.0.1 is the public internet and the rest of 127.0.0.0/8, which leads to the same servers, is not.
const internet = (address: string) => address === "127.0.0.1"

const fetcher = (options: Options = {}) =>
  Effect.map(Layer.build(PageFetcher.layer({ allow: internet, ...options })), Context.get(PageFetcher))

const fetch = (url: string, options?: Options) => Effect.flatMap(fetcher(options), ({ fetch }) => fetch(url))

/** Why the fetch of a page fails that is answered in this way. */
const refusal = (answer: Answer, options?: Options) =>
  Effect.gen(function* () {
    const { url } = yield* serve(answer)
    return yield* Effect.flip(fetch(url("/"), options))
  }).pipe(Effect.scoped)

const page = `<head><title>Fish &amp; Chips</title><meta name="description" content="All about them."></head>`
const found = { title: "Fish & Chips", description: "All about them." }

/** A server of names that answers a name with these addresses, one list after the other. */
const names = (...answers: ReadonlyArray<ReadonlyArray<string>>) => {
  const asked: Array<string> = []
  const lookup: LookupFunction = (host, _options, callback) => {
    const addresses = answers[Math.min(asked.length, answers.length - 1)] ?? []
    asked.push(host)
    callback(
      null,
      addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }))
    )
  }
  return { asked, lookup }
}

describe("PageFetcher", () => {
  it.effect("fetches title and description, and tells the server nothing of where it comes from", () =>
    Effect.gen(function* () {
      const web = yield* serve(html(page))
      assert.deepStrictEqual(yield* fetch(web.url("/a?b=c#d")), found)
      const [request] = web.requests
      assert.strictEqual(request?.url, "/a?b=c")
      assert.sameMembers(Object.keys(request?.headers ?? {}), [
        "host",
        "connection",
        "accept",
        "accept-encoding",
        "user-agent"
      ])
    })
  )

  it.effect("reads packed pages, and every charset that the server or the page names", () =>
    Effect.gen(function* () {
      const packed = yield* serve(html(gzipSync(page), { "content-encoding": "gzip" }))
      assert.deepStrictEqual(yield* fetch(packed.url("/")), found)
      const latin = Buffer.from("<title>café</title>", "latin1")
      const named = yield* serve(html(latin, { "content-type": `Text/HTML ; Charset="windows-1252"` }))
      assert.strictEqual((yield* fetch(named.url("/"))).title, "café")
      const nonsense = yield* serve(html(latin, { "content-type": "application/xhtml+xml;charset=wörld" }))
      assert.strictEqual((yield* fetch(nonsense.url("/"))).title, "caf\ufffd")
    })
  )

  it.effect("reads no further than the head, and hangs up on the rest", () =>
    Effect.gen(function* () {
      const web = yield* serve((_request, response) => {
        response.writeHead(200, { "content-type": "text/html" }).write(`${page}<body>${"x".repeat(2000)}`)
      })
      assert.deepStrictEqual(yield* fetch(web.url("/")), found)
      yield* web.closed
    })
  )

  it.effect("reads no more than 1 MiB of a page without an end", () =>
    Effect.gen(function* () {
      let sent = 0
      const web = yield* serve((request, response) => {
        response.writeHead(200, { "content-type": "text/html" }).write("<title>Endless</title>")
        const more = () => {
          while (!request.socket.destroyed && response.write(" ".repeat(65_536))) sent += 65_536
        }
        response.on("drain", more)
        more()
      })
      assert.strictEqual((yield* fetch(web.url("/"))).title, "Endless")
      yield* web.closed
      // What the system buffers on the way is sent as well.
      assert.isBelow(sent, 64 * 1024 * 1024)
    })
  )

  it.effect("unpacks no more than 1 MiB of a page that would fill the memory", () =>
    Effect.gen(function* () {
      const description = `<meta name="description" content="Too late">`
      const bomb = gzipSync(`<title>Bomb</title>${" ".repeat(64 * 1024 * 1024)}${description}`)
      const web = yield* serve(html(bomb, { "content-encoding": "gzip" }))
      assert.isBelow(bomb.length, 100_000)
      assert.deepStrictEqual(yield* fetch(web.url("/")), { title: "Bomb", description: null })
    })
  )

  it.effect("leaves what is beyond the size that was set", () =>
    Effect.gen(function* () {
      const web = yield* serve(html(`${" ".repeat(5000)}<title>Late</title>`))
      assert.isNull((yield* fetch(web.url("/"), { sizeLimit: ByteSize.bytes(5000) })).title)
      assert.strictEqual((yield* fetch(web.url("/"), { sizeLimit: ByteSize.bytes(6000) })).title, "Late")
    })
  )

  for (const [what, answer] of [
    ["does not begin", () => {}],
    ["does not end", (_request, response) => response.writeHead(200, { "content-type": "text/html" }).write("<title>")],
    [
      "does not get through its redirect",
      (request, response) => {
        if (request.url === "/") response.writeHead(302, { location: "/there" }).end()
      }
    ]
  ] satisfies ReadonlyArray<readonly [string, Answer]>) {
    it.effect(`waits 10 seconds for an answer that ${what}, and hangs up`, () =>
      Effect.gen(function* () {
        const arrived = yield* Deferred.make<void>()
        const web = yield* serve((request, response) => {
          answer(request, response)
          if (what !== "does not get through its redirect" || request.url !== "/") {
            Deferred.doneUnsafe(arrived, Effect.void)
          }
        })
        const fetching = yield* Effect.forkChild(Effect.flip(fetch(web.url("/"))))
        yield* Deferred.await(arrived)
        yield* TestClock.adjust("9999 millis")
        assert.isUndefined(fetching.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        const error = yield* Fiber.join(fetching)
        assert.deepInclude({ ...error }, { _tag: "PageUnavailable", reason: "timeout" })
        assert.include(error.message, "10s")
        yield* web.closed
      })
    )
  }

  it.effect("follows 5 redirects and no more, to wherever http goes", () =>
    Effect.gen(function* () {
      const web = yield* serve((request, response) => {
        const left = Number(request.url?.slice(1))
        if (left === 0) return html(page)(request, response)
        response.writeHead([301, 302, 303, 307, 308][left % 5] ?? 302, { location: `./${left - 1}` }).end(page)
      })
      assert.deepStrictEqual(yield* fetch(web.url("/5")), found)
      assert.lengthOf(web.requests, 6)
      const error = yield* Effect.flip(fetch(web.url("/6")))
      assert.deepInclude({ ...error }, { _tag: "PageUnreadable", reason: "too-many-redirects" })
      assert.lengthOf(web.requests, 12)
    })
  )

  it.effect("ends in a circle of redirects", () =>
    Effect.gen(function* () {
      const web = yield* serve((_request, response) => response.writeHead(302, { location: "/" }).end())
      const error = yield* Effect.flip(fetch(web.url("/")))
      assert.strictEqual(error.reason, "too-many-redirects")
      assert.lengthOf(web.requests, 6)
    })
  )

  it.effect("goes only where http and https lead, also by redirect", () =>
    Effect.gen(function* () {
      for (const address of [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "javascript:alert(1)",
        "data:text/html,x",
        "",
        "x"
      ]) {
        assert.strictEqual((yield* Effect.flip(fetch(address))).reason, "not-http", address)
      }
      for (const location of ["file:///etc/passwd", "gopher://127.0.0.1:25/", "data:text/html,<title>x", "http://"]) {
        const error = yield* refusal((_request, response) => response.writeHead(302, { location }).end())
        assert.deepInclude({ ...error }, { _tag: "PageUnreadable", reason: "not-http" }, location)
      }
    })
  )

  it.effect("says of each failure whether it is worth trying again", () =>
    Effect.gen(function* () {
      for (const [status, tag, reason] of [
        [304, "PageUnreadable", "client-error"],
        [302, "PageUnreadable", "client-error"],
        [401, "PageUnreadable", "client-error"],
        [404, "PageUnreadable", "client-error"],
        [410, "PageUnreadable", "client-error"],
        [408, "PageUnavailable", "server-error"],
        [429, "PageUnavailable", "too-many-requests"],
        [500, "PageUnavailable", "server-error"],
        [503, "PageUnavailable", "server-error"]
      ] as const) {
        const error = yield* refusal((_request, response) => response.writeHead(status).end())
        assert.deepStrictEqual([error._tag, error.reason], [tag, reason])
        assert.include(error.message, `status ${status}`)
      }
    })
  )

  it.effect("passes on how long a server wants to be left alone, in seconds or until a date, for a day at most", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(Date.UTC(2026, 10, 23))
      for (const [header, seconds] of [
        ["120", 120],
        ["0", 0],
        ["99999999", 86_400],
        ["Mon, 23 Nov 2026 00:01:30 GMT", 90],
        ["Mon, 23 Nov 2020 00:00:00 GMT", 0],
        ["soon", undefined],
        ["", undefined]
      ] as const) {
        const error = yield* refusal((_request, response) => response.writeHead(429, { "retry-after": header }).end())
        assert(error._tag === "PageUnavailable")
        assert.strictEqual(error.retryAfterSeconds, seconds, header)
      }
    })
  )

  it.effect("takes HTML and nothing else", () =>
    Effect.gen(function* () {
      for (const type of ["image/png", "application/json", "text/plain", "text/htmlx", "", "application/pdf"]) {
        const error = yield* refusal(html(page, { "content-type": type }))
        assert.deepInclude({ ...error }, { _tag: "PageUnreadable", reason: "not-html" }, type)
      }
      const empty = yield* refusal((_request, response) => response.writeHead(204).end())
      assert.strictEqual(empty.reason, "not-html")
      const foreign = yield* refusal(html(page, { "content-encoding": "compress" }))
      assert.strictEqual(foreign.reason, "unknown-encoding")
    })
  )

  it.effect("does not take the half of an answer for the whole", () =>
    Effect.gen(function* () {
      const packed = gzipSync(page)
      for (const answer of [
        html(packed.subarray(0, packed.length - 20), { "content-encoding": "gzip" }),
        html("this is not packed", { "content-encoding": "gzip" }),
        (request, response) => {
          response
            .writeHead(200, { "content-type": "text/html", "content-length": "1000" })
            .write("<title>Half", () => {
              request.socket.destroy()
            })
        }
      ] satisfies ReadonlyArray<Answer>) {
        const error = yield* refusal(answer)
        assert.deepInclude({ ...error }, { _tag: "PageUnavailable", reason: "broken-answer" })
      }
    })
  )

  it.effect("tries again later when nobody answers", () =>
    Effect.gen(function* () {
      const hungUp = yield* refusal((request) => request.socket.destroy())
      assert.deepInclude({ ...hungUp }, { _tag: "PageUnavailable", reason: "unreachable" })
      const closed = yield* Effect.scoped(Effect.map(serve(html(page)), ({ url }) => url("/")))
      const refused = yield* Effect.flip(fetch(closed))
      assert.deepInclude({ ...refused }, { _tag: "PageUnavailable", reason: "unreachable" })
      const noHttp = yield* refusal((request) => request.socket.end("SSH-2.0-OpenSSH\r\n"))
      assert.deepInclude({ ...noHttp }, { _tag: "PageUnavailable", reason: "unreachable" })
      const unknown = yield* Effect.flip(
        fetch("http://unknown.test/", {
          lookup: (_host, _options, callback) =>
            callback(Object.assign(new Error("ENOTFOUND"), { code: "ENOTFOUND" }), [])
        })
      )
      assert.deepInclude({ ...unknown }, { _tag: "PageUnavailable", reason: "unreachable" })
    })
  )
})

describe("PageFetcher and addresses that are nobody's business", () => {
  it.effect("refuses this machine, its network and the services of its cloud, in every spelling", () =>
    Effect.gen(function* () {
      const web = yield* serve(html(page))
      const { fetch } = yield* fetcher({ allow: undefined })
      for (const host of [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "１２７.0.0.1",
        "127。0。0。1",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "user:password@127.0.0.1",
        "example.org@127.0.0.1"
      ]) {
        const error = yield* Effect.flip(fetch(`http://${host}:${web.port}/`))
        assert.deepInclude({ ...error }, { _tag: "PageUnreadable", reason: "address-refused" }, host)
        assert.include(error.message, "not on the public internet")
      }
      assert.lengthOf(web.requests, 0)
    })
  )

  it.effect("refuses names that lead there, over https as well", () =>
    Effect.gen(function* () {
      const web = yield* serve(html(page))
      for (const address of ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"]) {
        for (const protocol of ["http", "https"]) {
          const { lookup } = names([address])
          const error = yield* Effect.flip(fetch(`${protocol}://inside.test:${web.port}/`, { lookup }))
          assert.strictEqual(error.reason, "address-refused", address)
        }
      }
      assert.lengthOf(web.requests, 0)
    })
  )

  it.effect("refuses redirects that lead there", () =>
    Effect.gen(function* () {
      for (const host of ["127.0.0.2", "[::1]", "169.254.169.254", "inside.test", "0x7f000002"]) {
        const web = yield* serve((request, response) => {
          const location = `http://${host}:${request.socket.localPort}/secret`
          if (request.url === "/") response.writeHead(302, { location }).end()
          else html(page)(request, response)
        })
        const { lookup } = names(["127.0.0.2"])
        const error = yield* Effect.flip(fetch(web.url("/"), { lookup }))
        assert.deepInclude({ ...error }, { _tag: "PageUnreadable", reason: "address-refused" }, host)
        assert.lengthOf(web.requests, 1)
      }
    })
  )

  it.effect("connects to the address that was checked, whatever the name means a moment later", () =>
    Effect.gen(function* () {
      const web = yield* serve((request, response) => {
        if (request.url === "/") response.writeHead(302, { location: "/again" }).end()
        else html(page)(request, response)
      })
      const { asked, lookup } = names(["127.0.0.1"], ["127.0.0.2"])
      const { fetch } = yield* fetcher({ lookup })
      // The redirect leads to the same name, which by now is another address.
      const error = yield* Effect.flip(fetch(`http://rebinding.test:${web.port}/`))
      assert.strictEqual(error.reason, "address-refused")
      assert.deepStrictEqual(asked, ["rebinding.test", "rebinding.test"])
      assert.deepStrictEqual(
        web.requests.map(({ url }) => url),
        ["/"]
      )
      const once = names(["127.0.0.1"], ["127.0.0.2"])
      const again = yield* fetcher({ lookup: once.lookup })
      assert.deepStrictEqual(yield* again.fetch(`http://rebinding.test:${web.port}/again`), found)
      assert.lengthOf(once.asked, 1)
    })
  )

  it.effect("speaks to none of the other addresses of a name", () =>
    Effect.gen(function* () {
      const locals: Array<string | undefined> = []
      const web = yield* serve((request, response) => {
        locals.push(request.socket.localAddress)
        html(page)(request, response)
      })
      const { lookup } = names(["127.0.0.2", "::1", "127.0.0.1", "127.0.0.3"])
      assert.deepStrictEqual(yield* fetch(`http://many.test:${web.port}/`, { lookup }), found)
      assert.deepStrictEqual(locals, ["127.0.0.1"])
    })
  )

  it.effect("keeps no connection, on which a name could mean what it meant before", () =>
    Effect.gen(function* () {
      const web = yield* serve(html(page))
      const { asked, lookup } = names(["127.0.0.1"])
      const { fetch } = yield* fetcher({ lookup })
      yield* fetch(`http://kept.test:${web.port}/`)
      yield* fetch(`http://kept.test:${web.port}/`)
      assert.lengthOf(asked, 2)
      assert.strictEqual(web.requests[0]?.headers.connection, "close")
    })
  )
})
