import { assert, layer } from "@effect/vitest"
import { Pglite } from "@coppice/postgres"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { bench, digest, live, nodeId } from "./fixtures/cron.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

let schemas = 0
const start = (from: string) =>
  Effect.gen(function* () {
    yield* TestClock.setTime(Date.parse(from))
    return yield* bench(`reboot_${++schemas}`, "clock")
  })

layer(EmptyDatabase)("@reboot", (it) => {
  const reboot = [digest("@reboot")]

  it.effect("fires when the first node starts, and not for those that come while it lives", () =>
    Effect.gen(function* () {
      const { beat, instants, loop, startNode } = yield* start("2026-01-01T12:00:00Z")
      yield* startNode(1)
      const one = yield* Effect.forkChild(yield* loop(reboot))
      yield* Pglite.advance("3 seconds")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:00:00.000Z"])
      yield* startNode(2)
      const two = yield* Effect.forkChild(yield* loop(reboot, { node: { id: nodeId(2) } }))
      for (let n = 0; n < 10; n++) {
        yield* Pglite.advance("5 seconds")
        yield* beat(1)
        yield* beat(2)
      }
      assert.strictEqual((yield* instants).length, 1)
      yield* Fiber.interrupt(one)
      yield* Fiber.interrupt(two)
    })
  )

  it.effect("fires once for nodes that start at the same time", () =>
    Effect.gen(function* () {
      const { beat, instants, loop, startNode } = yield* start("2026-01-01T12:00:00Z")
      const fibers = []
      for (const n of [1, 2, 3, 4]) {
        yield* startNode(n)
        fibers.push(yield* Effect.forkChild(yield* loop(reboot, { node: { id: nodeId(n) } })))
      }
      for (let n = 0; n < 10; n++) {
        yield* Pglite.advance("5 seconds")
        for (const id of [1, 2, 3, 4]) yield* beat(id)
      }
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:00:00.000Z"])
      for (const fiber of fibers) yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("fires at the next start of all, also of an entry that the database alone knows", () =>
    Effect.gen(function* () {
      const { cron, instants, loop, startNode, stopNode } = yield* start("2026-01-01T12:00:00Z")
      yield* startNode(1)
      yield* live(
        Effect.tap(loop([]), () => cron.create(digest("@reboot"))),
        "1 minute"
      )
      assert.deepStrictEqual(yield* instants, [])
      yield* stopNode(1)
      yield* Pglite.advance("1 second")
      yield* startNode(2)
      yield* live(loop([], { node: { id: nodeId(2) } }), "1 minute")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:01:01.000Z"])
    })
  )

  it.effect("fires for a node that starts just after the only other one was killed, once that is clear", () =>
    Effect.gen(function* () {
      const { beat, instants, loop, startNode } = yield* start("2026-01-01T12:00:00Z")
      yield* startNode(1)
      yield* live(loop(reboot), "2 seconds")
      yield* beat(1)
      yield* Pglite.advance("2 seconds")
      yield* startNode(2)
      const fiber = yield* Effect.forkChild(yield* loop(reboot, { node: { id: nodeId(2) } }))
      yield* Pglite.advance("15 seconds")
      yield* beat(2)
      assert.strictEqual((yield* instants).length, 1)
      yield* Pglite.advance("5 seconds")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:00:00.000Z", "2026-01-01T12:00:04.000Z"])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("does not fire for a node that replaces another one while that is still there", () =>
    Effect.gen(function* () {
      const { beat, instants, loop, startNode, stopNode } = yield* start("2026-01-01T12:00:00Z")
      yield* startNode(1)
      yield* live(loop(reboot), "1 minute")
      yield* beat(1)
      yield* Pglite.advance("1 second")
      yield* startNode(2)
      const fiber = yield* Effect.forkChild(yield* loop(reboot, { node: { id: nodeId(2) } }))
      yield* Pglite.advance("2 seconds")
      yield* stopNode(1)
      yield* Pglite.advance("2 minutes")
      assert.strictEqual((yield* instants).length, 1)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("does not fire again for a node that started before the one for which it fired, but was seen later", () =>
    Effect.gen(function* () {
      const { database, instants, loop, startNode } = yield* start("2026-01-01T12:00:00Z")
      yield* startNode(2)
      yield* live(loop(reboot, { node: { id: nodeId(2) } }), "1 second")
      yield* startNode(1)
      yield* database.run(
        `update ${database.schema}.nodes set started_at = started_at - interval '1 minute' where id = '${nodeId(1)}'`
      )
      yield* live(loop(reboot), "1 minute")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:00:00.000Z"])
    })
  )

  it.effect("waits for the node's own row, and fires once although the loop is started again", () =>
    Effect.gen(function* () {
      const { instants, loop, startNode } = yield* start("2026-01-01T12:00:00Z")
      const effect = yield* loop(reboot)
      yield* live(Effect.succeed(effect), "1 minute")
      assert.deepStrictEqual(yield* instants, [])
      yield* startNode(1)
      yield* live(Effect.succeed(effect), "1 minute")
      yield* live(Effect.succeed(effect), "1 minute")
      yield* live(loop(reboot), "1 minute")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:01:00.000Z"])
    })
  )

  it.effect("waits for the node's id, and takes another id of the same node for no new start", () =>
    Effect.gen(function* () {
      const { instants, loop, startNode, stopNode } = yield* start("2026-01-01T12:00:00Z")
      const node = { id: "" }
      const effect = yield* loop(reboot, { node })
      yield* live(Effect.succeed(effect), "1 minute")
      assert.deepStrictEqual(yield* instants, [])
      yield* startNode(1)
      yield* Pglite.advance("1 second")
      yield* startNode(2)
      node.id = nodeId(2)
      yield* live(Effect.succeed(effect), "5 seconds")
      assert.deepStrictEqual(yield* instants, [])
      // It comes back under another id while it is not clear yet that the first node is dead.
      yield* startNode(3)
      yield* stopNode(2)
      node.id = nodeId(3)
      yield* live(Effect.succeed(effect), "1 minute")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:01:01.000Z"])
    })
  )

  it.effect("does not fire while it is paused, nor when it is resumed", () =>
    Effect.gen(function* () {
      const { cron, instants, loop, startNode, stopNode } = yield* start("2026-01-01T12:00:00Z")
      yield* startNode(1)
      yield* live(loop(reboot), "1 minute")
      yield* cron.pause("digest")
      yield* stopNode(1)
      yield* Pglite.advance("1 second")
      yield* startNode(2)
      const fiber = yield* Effect.forkChild(yield* loop(reboot, { node: { id: nodeId(2) } }))
      yield* Pglite.advance("1 minute")
      yield* cron.resume("digest")
      yield* Pglite.advance("2 minutes")
      assert.strictEqual((yield* instants).length, 1)
      yield* Fiber.interrupt(fiber)
    })
  )
})
