import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { createServer } from "node:net"
import * as AppProcess from "../src/demo/AppProcess.ts"
import * as Client from "../src/demo/Client.ts"
import { executable, launch, missing, sees } from "./fixtures/browser.ts"

// A busy machine takes its time over a browser and two processes.
const patience = 120_000

/** A port that nobody listens on, for a process that comes back to it. */
const freePort = Effect.callback<number>((resume) => {
  const server = createServer()
  server.listen(0, "127.0.0.1", () => {
    const address = server.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    server.close(() => resume(Effect.succeed(port)))
  })
})

layer(Postgres.layerTestDatabase(), { excludeTestServices: true })("The page of a trail in a browser", (it) => {
  if (executable === undefined) process.stderr.write(`${missing}\n`)
  const test = executable === undefined ? it.effect.skip : it.effect
  test(
    "shows what others do while they do it, and comes back by itself",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const database = Redacted.value((yield* Postgres.Server).url())
        const args = ["--port", String(yield* freePort)]
        const [browser, first, other] = yield* Effect.all(
          [launch, AppProcess.startOn(database, args), AppProcess.startOn(database)],
          { concurrency: 3 }
        )
        yield* sql`insert into users (name) values ('ada')`
        const client = yield* Client.make(first.url)
        const { id } = yield* client.trails.create({ payload: { name: "Ridge" } })
        const params = { id }
        yield* client.followers.add({ params, payload: { name: "ada" } })

        const mine = yield* browser.open("demo", `${first.url}/trails/${id}`)
        yield* sees(mine, "[data-live]", "live")
        // What is not there any more after the page was loaded again.
        yield* Effect.promise(() => mine.evaluate("window.loaded = 'once'"))
        // Her page is served by the other process.
        const hers = yield* browser.open("ada", `${other.url}/trails/${id}`)
        yield* sees(hers, "[data-live]", "live")
        yield* sees(mine, "[data-region=viewers]", "with you: ada")
        yield* sees(hers, "[data-region=viewers]", "with you: demo")
        const tab = yield* browser.open("demo", `${first.url}/trails/${id}`)
        yield* Effect.promise(async () => {
          await tab.getByLabel("Address of a page").fill("https://example.org/by-form")
          await tab.getByRole("button", { name: "Capture", exact: true }).click()
        })
        for (const page of [tab, mine, hers]) yield* sees(page, "[data-region=pages]", "https://example.org/by-form")
        yield* Effect.promise(() => tab.close())
        // As when it was opened in a tab of its own: what changes around it is shown all the same.
        yield* Effect.promise(() => mine.getByRole("link", { name: "by-form" }).focus())

        yield* first.signal("SIGKILL")
        yield* first.ended
        yield* sees(mine, "[data-live]", "reconnecting")
        const otherClient = yield* Client.make(other.url)
        yield* otherClient.captures.capture({ params, payload: { url: "https://example.org/meanwhile" } })
        yield* otherClient.trails.pause({ params })
        yield* sees(hers, "[data-region=head]", "paused")
        yield* sees(hers, "[data-region=viewers]", "Only you are looking")
        yield* AppProcess.startOn(database, args)
        yield* sees(mine, "[data-live]", "live")
        yield* sees(mine, "[data-region=pages]", "https://example.org/meanwhile")
        yield* sees(mine, "[data-region=head]", "paused")
        yield* sees(mine, "[data-region=step]", "Resume")
        yield* sees(hers, "[data-region=viewers]", "with you: demo")
        assert.strictEqual(yield* Effect.promise(() => mine.evaluate("window.loaded")), "once")
        assert.strictEqual(
          yield* Effect.promise(() => mine.evaluate("document.activeElement.href")),
          "https://example.org/by-form"
        )
      }).pipe(Effect.scoped),
    patience
  )
})
