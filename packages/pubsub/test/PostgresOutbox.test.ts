import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Random } from "effect"
import { Cluster } from "../src/internal/cluster.ts"
import { decode } from "../src/internal/envelope.ts"
import { decodeAttached, maxBytes } from "../src/internal/postgres/notification.ts"
import { type Batch, Outbox } from "../src/internal/postgres/outbox.ts"

const make = (options: Partial<ConstructorParameters<typeof Outbox>[0]> = {}) => {
  const ignore = () => undefined
  const cluster = new Cluster("me", { deliver: ignore, gap: ignore, status: ignore }, { heartbeatMillis: 10_000 })
  return new Outbox({ node: "me", cluster, ascii: false, maxMessages: 1_000, maxBytes: 1_000_000, ...options })
}

/** What receivers make of a batch: numbers of packets, and the events in them. */
const unpacked = ({ attachments, notifications }: Batch) =>
  notifications.flatMap((text) => {
    const attached = decodeAttached(text)
    const packet = decode(
      attached === undefined ? text : (attachments.find(({ seq }) => seq === attached.seq)?.body ?? "")
    )
    assert.isDefined(packet)
    if (packet?.kind !== "messages") return []
    return packet.messages.map(({ event, to }) => ({ seq: packet.seq, event, to }))
  })

/** Takes and settles all that waits. */
const all = (outbox: Outbox) => {
  const batches: Array<Batch> = []
  for (let batch = outbox.take(); batch !== undefined; batch = outbox.take()) {
    batches.push(batch)
    outbox.settle()
  }
  return batches
}

describe("what waits to leave for PostgreSQL", () => {
  it("is given up in its place where it is not JSON, and harms nobody", () => {
    const outbox = make()
    const ring: Record<string, unknown> = {}
    ring["self"] = ring
    for (const event of ["before", 1n, ring, "after"]) outbox.add({ topic: "t", event }, undefined)
    assert.deepStrictEqual(all(outbox).flatMap(unpacked), [
      { seq: 1, event: "before", to: undefined },
      { seq: 3, event: "after", to: undefined }
    ])
    assert.strictEqual(outbox.lost, 2)
  })

  it.effect("is packed in order, and no notification is larger than PostgreSQL takes, whatever is in it", () =>
    Effect.gen(function* () {
      for (const ascii of [false, true]) {
        const outbox = make({ ascii, maxBytes: 100_000_000 })
        const events: Array<string> = []
        for (let n = 0; n < 800; n++) {
          const random = yield* Random.next
          const character = ["a", "é", "漢", "🌳", "\u0000", "\uD800", '"'][yield* Random.nextIntBetween(0, 7)] ?? ""
          const event = `${n} ${character.repeat(Math.floor(random ** 8 * 20_000))}`
          events.push(event)
          outbox.add({ topic: "t", event }, n % 7 === 0 ? "you" : undefined)
        }
        // Addressed to what cannot be a node: that is nobody's, and must not harm what leaves with it.
        for (const to of ["ü", "x".repeat(20_000)]) outbox.add({ topic: "t", event: "a".repeat(10_000) }, to)
        const batches = all(outbox)
        const unpackedAll = batches.flatMap(unpacked)
        assert.deepStrictEqual(
          unpackedAll.slice(-2).map(({ to }) => to?.length),
          [1, 20_000]
        )
        const found = unpackedAll.slice(0, -2)
        assert.deepStrictEqual(
          found.map(({ event }) => event),
          events
        )
        for (const [n, { to }] of found.entries()) assert.strictEqual(to, n % 7 === 0 ? "you" : undefined)
        const texts = batches.flatMap(({ notifications }) => notifications)
        assert.isBelow(Math.max(...texts.map((text) => Buffer.byteLength(text))), maxBytes + 1)
        // What is small shares a notification with others.
        assert.isBelow(texts.length, 500)
        if (ascii) assert.isTrue(texts.every((text) => Buffer.byteLength(text) === text.length))
      }
    })
  )

  it.effect("is bounded by number and by bytes, and where the oldest was given up a number is missing", () =>
    Effect.sync(() => {
      const few = make({ maxMessages: 3 })
      for (let n = 0; n < 10; n++) few.add({ topic: "t", event: n }, undefined)
      assert.strictEqual(few.lost, 7)
      assert.deepStrictEqual(
        all(few).flatMap(unpacked),
        [7, 8, 9].map((event) => ({ seq: 2, event, to: undefined }))
      )
      const small = make({ maxBytes: 5_000 })
      for (let n = 0; n < 10; n++) small.add({ topic: "t", event: `${n}${"a".repeat(1_000)}` }, undefined)
      assert.strictEqual(small.lost, 6)
      assert.lengthOf(all(small).flatMap(unpacked), 4)
      // Also where one is larger than all that may wait.
      small.add({ topic: "t", event: "a".repeat(6_000) }, undefined)
      small.add({ topic: "t", event: "b" }, undefined)
      assert.deepStrictEqual(all(small).flatMap(unpacked), [{ seq: 4, event: "b", to: undefined }])
    })
  )

  it.effect("leaves before the sign that was asked for, and many signs are one", () =>
    Effect.sync(() => {
      const outbox = make()
      outbox.say("alive")
      outbox.say("hello")
      outbox.say("alive")
      outbox.add({ topic: "t", event: 1 }, undefined)
      const kinds = all(outbox).map(({ notifications }) => notifications.map((text) => decode(text)?.kind))
      assert.deepStrictEqual(kinds, [["messages", "hello"]])
    })
  )

  it.effect("is waited for by a flush until it has left or was given up, and not for what comes later", () =>
    Effect.gen(function* () {
      const outbox = make({ maxMessages: 2 })
      const flushed = function* () {
        return yield* Effect.forkChild(outbox.settled, { startImmediately: true })
      }
      assert.isDefined((yield* flushed()).pollUnsafe())
      outbox.add({ topic: "t", event: 1 }, undefined)
      const first = yield* flushed()
      outbox.take()
      outbox.add({ topic: "t", event: 2 }, undefined)
      const second = yield* flushed()
      // What is given up behind what is on its way does not end a wait for that.
      for (let n = 3; n < 10; n++) outbox.add({ topic: "t", event: n }, undefined)
      yield* Effect.yieldNow
      assert.isUndefined(first.pollUnsafe())
      assert.isUndefined(second.pollUnsafe())
      outbox.settle()
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      const last = yield* flushed()
      outbox.close()
      yield* Fiber.join(last)
    })
  )
})
