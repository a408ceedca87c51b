// Effect's own HTTP server as a child: which of its fibers are the child's life, and which are a request's.
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe } from "@effect/vitest"
import { Context, Deferred, Effect, Layer } from "effect"
import { HttpClient, HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import * as Http from "node:http"
import { scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

describe("a web server that nobody here wrote", () => {
  // A real server on a free port: its requests take real time, which the tree's virtual clock does not see.
  const web = (fuse: Effect.Effect<never>, starts: Array<number>) => {
    const routes = Layer.mergeAll(
      HttpRouter.add("GET", "/ok", HttpServerResponse.text("ok")),
      HttpRouter.add("GET", "/die", Effect.die("in a handler")),
      HttpRouter.add("GET", "/fail", Effect.orDie(Effect.fail("in a handler")))
    )
    return Layer.effectDiscard(Effect.forkScoped(fuse)).pipe(
      Layer.merge(HttpRouter.serve(routes, { disableListenLog: true, disableLogger: true })),
      Layer.provideMerge(NodeHttpServer.layerTest),
      Layer.tap(() => Effect.sync(() => starts.push(starts.length + 1)))
    )
  }

  scenario("does not crash with a request that fails, and does with its background fiber", () =>
    Effect.gen(function* () {
      const fuse = yield* Deferred.make<never>()
      const starts: Array<number> = []
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [
            Child.layer(
              "web",
              Layer.suspend(() => web(starts.length === 0 ? Deferred.await(fuse) : Effect.never, starts))
            )
          ]
        })
      )
      const get = (path: string) =>
        Effect.map(HttpClient.get(path), ({ status }) => status).pipe(Effect.provideContext(app.context))
      assert.strictEqual(yield* get("/ok"), 200)
      assert.strictEqual(yield* get("/die"), 500)
      assert.strictEqual(yield* get("/fail"), 500)
      yield* settle
      assert.deepStrictEqual(starts, [1])
      yield* Deferred.die(fuse, "blown")
      const node = Tree.get("App/web")
      // The old server has to close its real port.
      while ((yield* node).incarnation < 2 || (yield* node).status !== "running") {
        yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      }
      assert.deepStrictEqual(starts, [1, 2])
      assert.strictEqual(yield* get("/ok"), 200)
    })
  )

  scenario("served by an effect child does not crash with a request either", () =>
    Effect.gen(function* () {
      let starts = 0
      const handler = Effect.die("in a handler")
      const server = yield* start(NodeHttpServer.layer(Http.createServer, { port: 0, host: "127.0.0.1" }))
      const serve = Effect.suspend(() => {
        starts++
        return Effect.andThen(HttpServer.serveEffect(handler), Effect.never)
      }).pipe(Effect.provideContext(server.context))
      yield* startApp("one_for_one", [Child.effect("web", serve)])
      yield* settle
      const { address } = Context.get(server.context, HttpServer.HttpServer)
      assert.isTrue("port" in address)
      const port = "port" in address ? address.port : 0
      const status = yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/`).then((response) => response.status))
      assert.strictEqual(status, 500)
      yield* settle
      assert.strictEqual(starts, 1)
    })
  )
})
