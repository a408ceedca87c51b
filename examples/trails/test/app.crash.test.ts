import { afterAll, assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber } from "effect"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { Agent, get, request } from "node:http"
import { connect, createServer, type Server, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as AppProcess from "../src/demo/AppProcess.ts"
import * as Client from "../src/demo/Client.ts"
import * as PageServer from "../src/demo/PageServer.ts"
import { send } from "./fixtures/http.ts"

// One folder for all: each test comes upon the data that the one before left, in whatever way it ended.
const data = mkdtempSync(join(tmpdir(), "trails-test-"))
afterAll(() => rmSync(data, { recursive: true, force: true }))

// A busy machine takes its time over 50 writers and two processes.
const patience = 120_000

let trails = 0
const newTrail = (client: Client.Client) =>
  Effect.map(client.trails.create({ payload: { name: `Ridge ${++trails}` } }), ({ id }) => id)

const unlimited = ["--captures-per-minute", "1000000", "--allow-private-addresses"]

/** Runs the program to its end. */
const runToEnd = (args: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const running = yield* AppProcess.run(args)
    const { code } = yield* running.ended
    return { code, output: running.output() }
  }).pipe(Effect.scoped)

/** What was printed besides the log of a start that went well so far, whose entries go on in lines that are indented. */
const complaints = ({ output }: { readonly output: string }) =>
  output.split("\n").filter((line) => line !== "" && !/^(?:\[[\d:.]+\] INFO | |\})/.test(line))

/** A port on which somebody else listens. */
const occupiedPort = Effect.acquireRelease(
  Effect.callback<Server>((resume) => {
    const server = createServer()
    server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
  }),
  (server) => Effect.sync(() => server.close())
).pipe(
  Effect.map((server) => {
    const address = server.address()
    return typeof address === "object" && address !== null ? address.port : 0
  })
)

/** A request that began and does not come to its end. */
const hanging = (url: string) =>
  Effect.acquireRelease(
    Effect.callback<ReturnType<typeof request>>((resume) => {
      const sent = request(`${url}/api/trails`, {
        method: "POST",
        headers: { "content-type": "application/json", "content-length": "100", expect: "100-continue" },
        agent: false
      })
      sent.on("error", () => {})
      // The server asks for the body when it has begun to read it.
      sent.once("continue", () => resume(Effect.succeed(sent)))
      sent.flushHeaders()
    }),
    (sent) => Effect.sync(() => sent.destroy())
  )

/** A connection that was opened in advance and never used, as browsers have them. */
const unused = (url: string) =>
  Effect.acquireRelease(
    Effect.callback<Socket>((resume) => {
      const { hostname, port } = new URL(url)
      const socket = connect(Number(port), hostname, () => resume(Effect.succeed(socket)))
      socket.on("error", () => {})
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

/** Follows events, as an open page does, and keeps the connection if it may. */
const watching = (url: string, path: string) =>
  Effect.acquireRelease(
    Effect.callback<ReturnType<typeof get>>((resume) => {
      const sent = get(`${url}${path}`, { agent: new Agent({ keepAlive: true }) }, (message) => {
        message.once("data", () => resume(Effect.succeed(sent)))
        message.on("error", () => {})
      })
      sent.on("error", () => {})
    }),
    (sent) => Effect.sync(() => sent.destroy())
  )

describe("the application", () => {
  it.live(
    "has every acknowledged capture after a kill -9 under 50 concurrent writers",
    () =>
      Effect.gen(function* () {
        const app = yield* AppProcess.start(data, unlimited)
        const client = yield* Client.make(app.url)
        const id = yield* newTrail(client)
        const pages = yield* PageServer.start(Effect.void)
        const acknowledged: Array<string> = []
        const write = (writer: number) =>
          Effect.gen(function* () {
            for (let n = 0; ; n++) {
              const url = `${pages.url}/${writer}/${n}`
              yield* client.captures.capture({ params: { id }, payload: { url } })
              acknowledged.push(url)
              if (acknowledged.length === 150) yield* app.signal("SIGKILL")
            }
          })
        const writers = yield* Effect.forEach(Array.from({ length: 50 }), (_, writer) =>
          Effect.forkChild(Effect.exit(write(writer)))
        )
        yield* Effect.forEach(writers, Fiber.join)
        assert.strictEqual((yield* app.ended).signal, "SIGKILL")
        assert.isAtLeast(acknowledged.length, 150)

        const again = yield* AppProcess.start(data, unlimited)
        const there = yield* Client.allUrls(yield* Client.make(again.url), id)
        assert.deepStrictEqual(
          acknowledged.filter((url) => !there.has(url)),
          []
        )
        // Each writer may have written one more that nobody told it about.
        assert.isAtMost(there.size, acknowledged.length + 50)
      }).pipe(Effect.scoped),
    patience
  )

  it.live(
    "has every acknowledged capture when its database crashes under 50 writers, and goes on",
    () =>
      Effect.gen(function* () {
        const app = yield* AppProcess.start(data, unlimited)
        const client = yield* Client.make(app.url)
        const id = yield* newTrail(client)
        const pages = yield* PageServer.start(Effect.void)
        const urls = Array.from({ length: 300 }, (_, n) => `${pages.url}/${n}`)
        const some = yield* Deferred.make<void>()
        const captures = yield* Effect.forkChild(
          Client.captureAll(client, id, urls, 50, (count) => {
            if (count >= 60) Deferred.doneUnsafe(some, Effect.void)
          })
        )
        yield* Deferred.await(some)
        yield* Client.crash(app.url, "Trails/database")
        const acknowledged = yield* Fiber.join(captures)
        const there = yield* Client.allUrls(client, id)
        assert.deepStrictEqual(
          acknowledged.filter((url) => !there.has(url)),
          []
        )
        assert.lengthOf(acknowledged, urls.length)
        assert.include(app.output(), "child restarted")
        // What still looks for the database where it was is not waited for.
        yield* app.signal("SIGTERM")
        const [took, { code }] = yield* Effect.timed(app.ended)
        assert.strictEqual(code, 0, app.output())
        assert.isBelow(Duration.toMillis(took), 6000)
      }).pipe(Effect.scoped),
    patience
  )

  it.live("says in one line why it cannot start, and ends with exit code 1", () =>
    Effect.gen(function* () {
      const port = yield* occupiedPort
      const usedPort = yield* runToEnd(["--port", String(port), "--data", data])
      const app = yield* AppProcess.start(data)
      const [usedFolder, badFlag] = yield* Effect.all(
        [runToEnd(["--port", "0", "--data", data]), runToEnd(["--prot", "1"])],
        { concurrency: 2 }
      )
      assert.deepStrictEqual([usedPort.code, usedFolder.code, badFlag.code], [1, 1, 1])
      assert.deepStrictEqual(complaints(usedPort), [
        `trails: 127.0.0.1:${port} is in use by another program. Stop it, or choose another port with --port.`
      ])
      assert.match(
        complaints(usedFolder).join("\n"),
        /^trails: The data folder .* is in use by process \d+.* another folder with --data,.*$/
      )
      assert.match(badFlag.output, /^trails: [^\n]+--prot[^\n]+\n$/)
      assert.strictEqual((yield* send(app.url)).status, 200)
    }).pipe(Effect.scoped)
  )

  it.live("stops in order on SIGTERM, also while pages are open, and leaves nothing running", () =>
    Effect.gen(function* () {
      const app = yield* AppProcess.start(data)
      const id = yield* newTrail(yield* Client.make(app.url))
      yield* watching(app.url, "/processes/events")
      yield* watching(app.url, `/trails/${id}/events`)
      yield* unused(app.url)
      assert.isTrue(existsSync(join(data, "postgres", "postmaster.pid")))
      yield* app.signal("SIGTERM")
      const [took, { code }] = yield* Effect.timed(app.ended)
      assert.strictEqual(code, 0, app.output())
      assert.isBelow(Duration.toMillis(took), 3000)
      assert.isFalse(existsSync(join(data, "postgres", "postmaster.pid")))
    }).pipe(Effect.scoped)
  )

  it.live("ends at once on a second signal", () =>
    Effect.gen(function* () {
      const app = yield* AppProcess.start(data)
      yield* hanging(app.url)
      yield* app.signal("SIGTERM")
      // In real time: two signals within half a second are one, as a terminal may send Ctrl-C twice.
      yield* Effect.sleep("700 millis")
      yield* app.signal("SIGTERM")
      const [took, { code }] = yield* Effect.timed(app.ended)
      assert.strictEqual(code, 143, app.output())
      assert.isBelow(Duration.toMillis(took), 2500)
    }).pipe(Effect.scoped)
  )

  it.live("gives up after a crash storm, and ends with exit code 1", () =>
    Effect.gen(function* () {
      const app = yield* AppProcess.start(data)
      const nobody = yield* Effect.flip(Client.crash(app.url, "Trails/nobody"))
      assert.strictEqual(nobody.message, "Trails/nobody did not crash: the application answered 404.")
      const crash = Client.crash(app.url, "Trails/trail-cache")
      const storm = Effect.forever(Effect.catchTag(crash, "NotCrashed", () => Effect.void))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(storm)))
      assert.strictEqual((yield* app.ended).code, 1)
      assert.include(app.output(), "Trails gave up")
    }).pipe(Effect.scoped)
  )
})
