import { assert, layer } from "@effect/vitest"
import { DateTime, Effect, Exit } from "effect"
import { SqlClient } from "effect/sql"
import { Captures } from "../src/Captures.ts"
import { PageId } from "../src/Page.ts"
import { PageMetadata } from "../src/PageMetadata.ts"
import { Domain, newPage, newTrail, pageById, listen } from "./fixtures/domain.ts"

const head = { title: "Fish & Chips", description: "All about them." }

layer(Domain)("PageMetadata", (it) => {
  it.effect("writes what a page says of itself, and when it said so", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const { page, trail } = yield* newPage
      assert.deepInclude({ ...page }, { title: null, description: null, metadata: "pending", fetchedAt: null })
      yield* metadata.found(page.id, head)
      const found = yield* pageById(trail.id, page.id)
      assert.deepInclude({ ...found }, { ...head, metadata: "fetched", url: page.url })
      assert.deepStrictEqual(found.fetchedAt, yield* DateTime.now)
    })
  )

  it.effect("keeps the title that the user gave", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const captures = yield* Captures
      const { owner, trail } = yield* newTrail
      const page = yield* captures.capture(owner, trail.id, { url: "https://example.org/", title: "Mine" })
      yield* metadata.found(page.id, head)
      assert.deepInclude({ ...(yield* pageById(trail.id, page.id)) }, { ...head, title: "Mine" })
    })
  )

  it.effect("takes nothing for nothing, and every text that may be fetched", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const silent = yield* newPage
      yield* metadata.found(silent.page.id, { title: null, description: null })
      assert.deepInclude(
        { ...(yield* pageById(silent.trail.id, silent.page.id)) },
        { title: null, metadata: "fetched" }
      )
      const long = yield* newPage
      const texts = { title: "😀".repeat(300), description: "é".repeat(1000) }
      yield* metadata.found(long.page.id, texts)
      assert.deepInclude({ ...(yield* pageById(long.trail.id, long.page.id)) }, texts)
    })
  )

  it.effect("believes the first answer, whoever brings another one, and however many bring it at once", () =>
    Effect.gen(function* () {
      const metadata = yield* PageMetadata
      const { page, trail } = yield* newPage
      const answers = Array.from({ length: 8 }, (_, n) => ({ title: `Answer ${n}`, description: `Answer ${n}` }))
      const told = yield* listen(trail.id)
      yield* Effect.forEach(answers, (answer) => metadata.found(page.id, answer), { concurrency: "unbounded" })
      const first = yield* pageById(trail.id, page.id)
      assert.strictEqual(first.title, first.description)
      assert.deepStrictEqual(yield* told, [{ _tag: "PageDescribed", page: page.id }])
      yield* metadata.missing(page.id)
      assert.deepStrictEqual(yield* pageById(trail.id, page.id), first)
      const gone = yield* newPage
      yield* metadata.missing(gone.page.id)
      yield* metadata.found(gone.page.id, head)
      assert.deepInclude({ ...(yield* pageById(gone.trail.id, gone.page.id)) }, { title: null, metadata: "missing" })
    })
  )

  it.effect("tells of the change when it has committed, and of none that did not happen", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const metadata = yield* PageMetadata
      const { page, trail } = yield* newPage
      const told = yield* listen(trail.id)
      yield* Effect.exit(sql.withTransaction(Effect.andThen(metadata.found(page.id, head), Effect.fail("no"))))
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(metadata.found(PageId.make(2_000_000_000), head))))
      assert.deepStrictEqual(yield* told, [])
      yield* metadata.missing(page.id)
      assert.deepStrictEqual(yield* told, [{ _tag: "PageDescribed", page: page.id }])
    })
  )
})
