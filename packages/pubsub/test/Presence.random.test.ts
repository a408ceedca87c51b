// Presence on many nodes under random faults: what must hold for every history, whatever happens in it.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { Bus } from "./fixtures/Bus.ts"
import { type Node, pass, shown, shownOf, startNode, topics } from "./fixtures/PresenceNodes.ts"
import { seeded } from "./fixtures/Random.ts"

describe("random histories with lost, doubled and reordered messages, partitions, crashes and restarts", () => {
  const history = (seed: number) =>
    Effect.gen(function* () {
      const random = seeded(seed)
      const bus = new Bus(random)
      bus.tellsGaps = random.below(2) === 0
      const nodes: Array<Node> = []
      for (let n = 2 + random.below(3); n > 0; n--) nodes.push(yield* startNode(bus))
      const rate = () => random.pick([0, 0, 10, 40])
      let name = 0
      const step = Effect.gen(function* () {
        const node = random.some(nodes)
        if (node === undefined) return
        const one = random.some(node.here)
        const other = random.some(nodes)
        switch (random.below(17)) {
          case 0:
          case 1:
          case 2:
          case 3:
            return yield* node.track(random.pick(topics), random.pick(["ada", "grace", "__proto__"]), `${name++}`)
          case 4:
          case 5:
            if (one === undefined) return
            one.name = `${name++}`
            return yield* Effect.orDie(one.tracked.update({ name: one.name }))
          case 6:
          case 7:
            if (one === undefined) return
            node.here.splice(node.here.indexOf(one), 1)
            return yield* Scope.close(one.scope, Exit.void)
          case 8:
            bus.faults = { drop: rate(), duplicate: rate(), hold: rate() }
            return
          case 9:
            if (other !== undefined && other !== node) bus.cut(node.id, other.id)
            return
          case 10:
            return bus.mendAll()
          case 11: {
            if (random.below(3) > 0) return
            nodes.splice(nodes.indexOf(node), 1)
            return yield* random.below(2) === 0 ? node.crash : node.stop
          }
          case 12:
            if (nodes.length < 4) nodes.push(yield* startNode(bus))
            return
          case 13:
            if (random.below(2) === 0) yield* node.restart
            return
          case 14:
            return bus.replay("one")
          default:
            return yield* pass(random.pick([0, 100, 1_500, 10_000, 40_000]))
        }
      })
      for (let steps = 60; steps > 0; steps--) yield* step
      bus.faults = { drop: 0, duplicate: 0, hold: 0 }
      bus.mendAll()
      bus.release()
      // In steps: a reader that is woken in a leap of the clock may go to sleep after it.
      for (let quiet = 0; quiet < 8; quiet++) yield* pass("15 seconds")
      for (const topic of topics) {
        const model = nodes
          .flatMap(({ here }) => here)
          .filter((one) => one.topic === topic)
          .map(({ key, name, tracked }) => `${key} ${tracked.ref} ${name}`)
          .toSorted()
        for (const node of nodes) {
          const at = `seed ${seed}, node ${node.id.slice(0, 4)}, topic ${topic}`
          assert.deepStrictEqual(yield* shown(node, topic), model, at)
          assert.deepStrictEqual(node.folds.get(topic)?.shown(), model, `${at}, diffs`)
          assert.deepStrictEqual(node.folds.get(topic)?.wrong, [], `${at}, diffs`)
          const last = node.lists.get(topic)?.last ?? new Map()
          assert.deepStrictEqual(shownOf(last), model, `${at}, changes`)
        }
      }
      for (const node of nodes) yield* node.stop
      return name
    })

  it.effect("end with the same lists on all nodes, and the diffs of each make its list", () =>
    Effect.gen(function* () {
      for (let seed = 0; seed < 60; seed++) yield* history(seed)
    })
  )
})
