import { assert, describe, it } from "@effect/vitest"
import { Deferred, type Duration, Effect, Fiber } from "effect"
import { connect } from "node:net"
import * as Connections from "../src/web/Connections.ts"
import { send } from "./fixtures/http.ts"

/** A server that listens, and answers nobody yet. */
const listening = (patience?: Duration.Input) =>
  Effect.acquireRelease(
    Effect.callback<Connections.Connections & { readonly url: string }>((resume) => {
      const connections = Connections.make(patience)
      const { server } = connections
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ ...connections, url: `http://127.0.0.1:${port}` }))
      })
    }),
    ({ server }) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )

/** Waits until the server has seen a request, and every listener of it as well. */
const requested = ({ server }: Connections.Connections) =>
  Effect.callback<void>((resume) => {
    server.prependOnceListener("request", () => setImmediate(() => resume(Effect.void)))
  })

describe("Connections", () => {
  it.live("answer those who asked before there was anybody to answer, once", () =>
    Effect.gen(function* () {
      const connections = yield* listening()
      const seen = yield* Effect.forkChild(requested(connections), { startImmediately: true })
      const early = yield* Effect.forkChild(send(connections.url), { startImmediately: true })
      yield* Fiber.join(seen)
      let asked = 0
      connections.server.on("request", (_request, response) => response.end(String(++asked)))
      assert.strictEqual((yield* Fiber.join(early)).text, "1")
      assert.strictEqual((yield* send(connections.url)).text, "2")
    }).pipe(Effect.scoped)
  )

  it.live("drop those when the server stops before there was", () =>
    Effect.gen(function* () {
      const connections = yield* listening()
      const seen = yield* Effect.forkChild(requested(connections), { startImmediately: true })
      const early = yield* Effect.forkChild(Effect.flip(send(connections.url)), { startImmediately: true })
      yield* Fiber.join(seen)
      connections.server.close()
      connections.letGo()
      assert.strictEqual((yield* Fiber.join(early))._tag, "NoAnswer")
    }).pipe(Effect.scoped)
  )

  for (const stops of [false, true]) {
    it.live(
      `drop ${stops ? "soon, when the server stops," : "after a while"} those who do not read what they are sent`,
      () =>
        Effect.gen(function* () {
          const { letGo, server, url } = yield* listening(stops ? "1 hour" : "200 millis")
          const [sent, gone] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          server.on("request", (_request, response) => {
            response.once("close", () => Deferred.doneUnsafe(gone, Effect.void))
            // More than what waits on the way.
            response.write(Buffer.alloc(32 * 1024 * 1024))
            Deferred.doneUnsafe(sent, Effect.void)
          })
          const socket = yield* Effect.acquireRelease(
            Effect.sync(() =>
              connect(Number(new URL(url).port), "127.0.0.1")
                .on("error", () => {})
                .pause()
            ),
            (socket) => Effect.sync(() => socket.destroy())
          )
          socket.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
          yield* Deferred.await(sent)
          if (stops) {
            server.close()
            letGo()
          }
          yield* Effect.timeout(Deferred.await(gone), "5 seconds")
        }).pipe(Effect.scoped)
    )
  }
})
