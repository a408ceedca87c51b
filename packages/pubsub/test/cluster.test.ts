import { assert, describe, it } from "@effect/vitest"
import type { GapReason, Status } from "../src/Adapter.ts"
import { Cluster } from "../src/internal/cluster.ts"
import { encodeEntry } from "../src/internal/envelope.ts"

type Told = number | GapReason | Status

/** A node that notes what it is told: numbers, gaps and statuses. */
const nodeOf = (name: string, heartbeatMillis = 10_000) => {
  const told: Array<Told> = []
  const cluster = new Cluster(
    name,
    {
      deliver: ({ event }) => told.push(Number(event)),
      gap: (reason) => told.push(reason),
      status: (status) => told.push(status)
    },
    { heartbeatMillis }
  )
  const entry = (event: number, to?: string) => encodeEntry({ topic: "numbers", event }, to) ?? assert.fail("no JSON")
  const send = (...events: ReadonlyArray<number>) => cluster.packet(events.map((event) => entry(event)))
  return { cluster, entry, send, told }
}

/** Random numbers that are the same for a seed (mulberry32). */
const randomOf = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) | 0
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
}

const seeds = Array.from({ length: 100 }, (_, seed) => seed)

describe("cluster", () => {
  it("delivers what others send, once and in order, and nothing of its own", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    b.cluster.connected(0)
    for (const packet of [a.send(1, 2), a.send(3), b.send(9)]) {
      b.cluster.receive(packet, 1)
      b.cluster.receive(packet, 1)
    }
    assert.deepStrictEqual(b.told, ["solitary", "clustered", 1, 2, 3])
  })

  it("delivers a direct message on its node alone, and the others see no hole", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    const c = nodeOf("c")
    for (const packet of [a.cluster.packet([a.entry(1, "b"), a.entry(2)]), a.cluster.packet([a.entry(3, "c")])]) {
      b.cluster.receive(packet, 1)
      c.cluster.receive(packet, 1)
    }
    assert.deepStrictEqual(
      [b.told, c.told],
      [
        [1, 2],
        [2, 3]
      ]
    )
  })

  it("tells a gap before what comes after a hole", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    const [first, , third] = [a.send(1), a.send(2), a.send(3)]
    b.cluster.receive(first, 1)
    b.cluster.receive(third, 1)
    assert.deepStrictEqual(b.told, [1, "missed", 3])
  })

  it("tells a gap at the next sign of a node whose last messages were lost, once", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    b.cluster.receive(a.send(1), 1)
    a.send(2)
    b.cluster.receive(a.cluster.sign("alive"), 1)
    b.cluster.receive(a.cluster.sign("alive"), 1)
    b.cluster.receive(a.send(3), 1)
    assert.deepStrictEqual(b.told, [1, "missed", 3])
  })

  it("tells a gap for messages that the sender gave up, one for all that it gave up between two signs", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    b.cluster.receive(a.send(1), 1)
    a.cluster.skip()
    a.cluster.skip()
    b.cluster.receive(a.cluster.sign("alive"), 1)
    a.cluster.skip()
    b.cluster.receive(a.send(2), 1)
    assert.deepStrictEqual(b.told, [1, "missed", "missed", 2])
  })

  it("has missed nothing of nodes that were there before it, and everything of those that came later", () => {
    const old = nodeOf("old")
    const late = nodeOf("late")
    const b = nodeOf("b")
    old.send(1)
    b.cluster.connected(0)
    b.cluster.receive(old.send(2), 100)
    late.send(3)
    b.cluster.receive(late.send(4), 60_000)
    assert.deepStrictEqual(b.told, ["solitary", "clustered", 2, "missed", 4])
  })

  it("tells a gap when it hears again, and drops what it had heard before", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    const first = a.send(1)
    b.cluster.connected(0)
    b.cluster.receive(first, 1)
    b.cluster.disconnected()
    b.cluster.connected(100_000)
    b.cluster.receive(first, 100_001)
    b.cluster.receive(a.send(2), 100_002)
    assert.deepStrictEqual(b.told, ["solitary", "clustered", 1, "disconnected", "disconnected", "clustered", 2])
  })

  it("tells a gap for what another node has given up since this one hears again", () => {
    const a = nodeOf("a")
    const b = nodeOf("b")
    b.cluster.connected(0)
    b.cluster.receive(a.send(1), 1)
    b.cluster.disconnected()
    b.cluster.connected(100_000)
    b.told.length = 0
    a.cluster.skip()
    b.cluster.receive(a.send(2), 100_001)
    assert.deepStrictEqual(b.told, ["missed", 2])
  })

  it("is solitary when the others have left, or were silent for three heartbeats", () => {
    const a = nodeOf("a")
    const b = nodeOf("b", 1_000)
    b.cluster.connected(0)
    b.cluster.receive(a.cluster.sign("hello"), 1)
    b.cluster.receive(a.cluster.sign("bye"), 2)
    b.cluster.receive(a.cluster.sign("alive"), 3)
    b.cluster.tick(3_003)
    b.cluster.tick(3_004)
    assert.deepStrictEqual(b.told, ["solitary", "clustered", "solitary", "clustered", "solitary"])
  })

  it("knows a node again that was frozen, and what it heard of it", () => {
    const a = nodeOf("a")
    const b = nodeOf("b", 1_000)
    const first = a.send(1)
    b.cluster.connected(0)
    b.cluster.receive(first, 1)
    b.cluster.tick(60_000)
    b.cluster.receive(first, 60_001)
    b.cluster.receive(a.send(2), 60_002)
    assert.deepStrictEqual(b.told, ["solitary", "clustered", 1, "solitary", "clustered", 2])
  })

  it("is not harmed by what others write to the channel", () => {
    const b = nodeOf("b")
    const hostile = [
      "",
      "null",
      "1",
      "[]",
      "{}",
      "{",
      '"messages"',
      '{"kind":"messages","from":"a","seq":1}',
      '{"kind":"messages","from":"a","seq":1,"messages":{}}',
      '{"kind":"messages","from":"a","seq":1,"messages":[null]}',
      '{"kind":"messages","from":"a","seq":1,"messages":[{"topic":1}]}',
      '{"kind":"messages","from":"a","seq":1,"messages":[{"topic":"t","event":1,"to":7}]}',
      '{"kind":"alive","from":"a","seq":-1}',
      '{"kind":"alive","from":"a","seq":1e99}',
      '{"kind":"alive","from":"a","seq":"1"}',
      '{"kind":"alive","from":7,"seq":1}',
      '{"kind":"messages","from":"a","seq":0,"messages":[]}',
      '{"kind":"constructor","from":"a","seq":1}'
    ]
    assert.deepStrictEqual(
      hostile.map((text) => b.cluster.receive(text, 1)),
      hostile.map(() => "nothing")
    )
    assert.deepStrictEqual(b.told, [])
  })

  it("pauses shortly after messages, and ever longer after that", () => {
    const { cluster, send } = nodeOf("a")
    const pauses = [0, 1, 2, 3, 4].map(() => cluster.pause())
    send(1)
    assert.deepStrictEqual([...pauses, cluster.pause()], [1_000, 2_000, 4_000, 8_000, 10_000, 1_000])
  })

  it("whatever is dropped, duplicated, delayed or restarted: no number twice, in order, and a gap at each hole", () => {
    for (const seed of seeds) {
      const random = randomOf(seed)
      const b = nodeOf("b")
      b.cluster.connected(0)
      let now = 10_000
      for (let incarnation = 0; incarnation < 3; incarnation++) {
        const a = nodeOf(`a${incarnation}`)
        const base = incarnation * 1_000
        const from = b.told.length
        const late: Array<string> = []
        let number = base
        for (let step = 0; step < 60; step++) {
          now += Math.floor(random() * 100)
          const roll = random()
          const packet =
            roll < 0.1
              ? a.cluster.sign("alive")
              : a.send(...Array.from({ length: 1 + Math.floor(random() * 4) }, () => ++number))
          if (random() < 0.05) {
            a.cluster.skip()
            number++
          }
          if (random() < 0.2) {
            if (random() < 0.5) late.push(packet)
            continue
          }
          b.cluster.receive(packet, now)
          if (random() < 0.2) b.cluster.receive(packet, now)
          if (random() < 0.2 && late.length > 0) b.cluster.receive(late.shift() ?? "", now)
        }
        b.cluster.receive(a.cluster.sign(incarnation === 1 ? "bye" : "alive"), now)
        const told = b.told.slice(from).filter((what) => typeof what === "number" || what === "missed")
        let last = base
        let gap = false
        for (const what of [...told, number + 1]) {
          if (typeof what !== "number") {
            gap = true
            continue
          }
          assert.isAbove(what, last, `seed ${seed}`)
          if (what !== last + 1) assert.isTrue(gap, `seed ${seed}: ${what} after ${last} without a gap`)
          last = what
          gap = false
        }
      }
    }
  })
})
