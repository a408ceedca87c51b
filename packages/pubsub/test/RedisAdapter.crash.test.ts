import { type Adapter, PubSub, RedisAdapter, Topic } from "@coppice/pubsub"
import { assert, describe, layer } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Layer, References, Schema, Scope, Stream } from "effect"
import { Redis } from "effect/persistence"
import { inspect } from "node:util"
import * as RedisServer from "./RedisServer.ts"

// oxlint-disable-next-line no-console -- reporters count what is skipped, and do not say why
if (!RedisServer.isInstalled) console.warn("Redis: redis-server is not on the PATH, so its tests are skipped")

class Server extends Context.Service<Server, RedisServer.RedisServer>()("test/Server") {}

interface Told {
  readonly from: string
  readonly event: unknown
}

interface Node {
  readonly name: string
  readonly send: Adapter.Adapter["send"]
  readonly flush: Effect.Effect<void>
  readonly told: Array<Told>
  readonly statuses: Array<Adapter.Status>
  readonly close: Effect.Effect<void>
}

const isGap = ({ from }: Told) => from === "gap"
const now = { startImmediately: true }
const gap = { from: "gap", event: undefined }

/** A node of its own, with connections of its own. */
const startNode = Effect.fnUntraced(function* (name: string, channel: string, heartbeat = 10_000) {
  const { client } = yield* Server
  const told: Array<Told> = []
  const statuses: Array<Adapter.Status> = []
  const scope = yield* Scope.make()
  const close = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => close)
  const adapter = yield* RedisAdapter.make({ channel, heartbeat })(name, {
    deliver: ({ event }, from) => told.push({ from, event }),
    gap: () => told.push(gap),
    status: (status) => statuses.push(status)
  }).pipe(Effect.provideContext(yield* Scope.provide(Layer.build(Layer.fresh(client)), scope)), Scope.provide(scope))
  return { name, ...adapter, told, statuses, close } satisfies Node
})

/** Looks again and again, because what is waited for happens in Redis. */
const until = (what: string, condition: () => boolean) =>
  Effect.gen(function* () {
    for (let tries = 0; tries < 1_000; tries++) {
      if (condition()) return
      yield* Effect.sleep(5)
    }
    assert.fail(`never: ${what}`)
  })

const clustered = (...nodes: ReadonlyArray<Node>) =>
  until("all are clustered", () => nodes.every(({ statuses }) => statuses.at(-1) === "clustered"))

/** Numbers of one sender: none twice, in order, and a gap where some are missing. */
const assertSound = (told: ReadonlyArray<Told>, sender: string, upTo: number) => {
  let last = 0
  let gapped = false
  for (const { event, from } of [...told, { from: sender, event: upTo + 1 }]) {
    if (from === "gap") gapped = true
    if (from !== sender) continue
    const number = Number(event)
    assert.isAbove(number, last, `${sender} after ${last}`)
    if (number !== last + 1) {
      assert.isTrue(gapped, `${sender}: ${number} after ${last} without a gap`)
    }
    last = number
    gapped = false
  }
}

/** Connections are lost all the time here: nothing is to be logged of that. */
const environment = Layer.merge(
  Layer.effect(Server, RedisServer.make),
  Layer.succeed(References.MinimumLogLevel, "None")
)

const clients = Effect.flatMap(Server, ({ command }) => command("CLIENT", "LIST")).pipe(
  Effect.map((list) => String(list).trim().split("\n").length - 1)
)

describe.skipIf(!RedisServer.isInstalled)("RedisAdapter", () => {
  layer(environment, { excludeTestServices: true })((it) => {
    it.effect(
      "delivers to every other node exactly once and in order, also what is large or has many bytes to a character",
      () =>
        Effect.gen(function* () {
          const nodes = [yield* startNode("a", "many"), yield* startNode("b", "many"), yield* startNode("c", "many")]
          yield* clustered(...nodes)
          const large = "é€😀\u0000\ud800".repeat(20_000)
          const events = [
            large,
            ...Array.from({ length: 500 }, (_, number) => number),
            large.slice(1),
            { nested: [null, "ü"] }
          ]
          for (const event of events) for (const { send } of nodes) send({ topic: "numbers", event })
          for (const node of nodes) {
            yield* until(`${node.name} has everything`, () => node.told.length >= events.length * 2)
            for (const { name } of nodes) {
              const received = node.told.filter(({ from }) => from === name).map(({ event }) => event)
              assert.deepStrictEqual(received, name === node.name ? [] : events)
            }
          }
        })
    )

    it.effect("sends to one node alone, and an unknown node is nobody", () =>
      Effect.gen(function* () {
        const [a, b, c] = [
          yield* startNode("a", "direct"),
          yield* startNode("b", "direct"),
          yield* startNode("c", "direct")
        ]
        a.send({ topic: "numbers", event: 1 }, "b")
        a.send({ topic: "numbers", event: 2 }, "nobody")
        a.send({ topic: "numbers", event: 3 })
        yield* until("c has the last", () => c.told.length > 0)
        assert.deepStrictEqual([b.told.map(({ event }) => event), c.told.map(({ event }) => event)], [[1, 3], [3]])
      })
    )

    it.effect("publishes what is broadcast meanwhile at once", () =>
      Effect.gen(function* () {
        const { command } = yield* Server
        const [a, b] = [yield* startNode("a", "batch"), yield* startNode("b", "batch")]
        yield* clustered(a, b)
        yield* command("CONFIG", "RESETSTAT")
        for (let number = 1; number <= 2_000; number++) a.send({ topic: "numbers", event: number })
        yield* a.flush
        yield* until("b has all", () => b.told.length === 2_000)
        const published = /cmdstat_publish:calls=(\d+)/.exec(String(yield* command("INFO", "commandstats")))?.[1]
        assert.isBelow(Number(published), 10)
      })
    )

    it.effect(
      "connections that are cut cost no order and no duplicates, and a gap stands where something is missing",
      () =>
        Effect.gen(function* () {
          const { client } = yield* Server
          const admin = Context.get(yield* Layer.build(client), Redis.Redis)
          const [a, b] = [yield* startNode("a", "cut"), yield* startNode("b", "cut")]
          yield* clustered(a, b)
          // A client connects again within a millisecond, so it takes some cuts until one costs something.
          let last = 0
          while (last < 500 || !a.told.some(isGap) || !b.told.some(isGap)) {
            assert.isBelow(++last, 5_000, "cuts cost nothing, and this proves nothing")
            if (last % 50 === 10) yield* Effect.forkChild(admin.send("CLIENT", "KILL", "TYPE", "pubsub"), now)
            if (last % 50 === 30) yield* Effect.forkChild(admin.send("CLIENT", "KILL", "TYPE", "normal"), now)
            for (const { send } of [a, b]) send({ topic: "numbers", event: last })
            if (last % 5 === 0) yield* Effect.sleep(1)
          }
          yield* admin.send("PING")
          const heard = () => a.told.at(-1)?.event === last && b.told.at(-1)?.event === last
          while (!heard()) {
            assert.isBelow(++last, 6_000, "never came to hear each other again")
            for (const { send } of [a, b]) send({ topic: "numbers", event: last })
            yield* Effect.sleep(10)
          }
          assertSound(a.told, "b", last)
          assertSound(b.told, "a", last)
        })
    )

    it.effect("a subscriber that Redis cuts off for being slow is told a gap, and hears what comes after", () =>
      Effect.gen(function* () {
        const { command } = yield* Server
        const [a, b] = [yield* startNode("a", "slow"), yield* startNode("b", "slow")]
        yield* clustered(a, b)
        yield* command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 0 0")
        a.send({ topic: "numbers", event: 1 })
        yield* a.flush
        a.send({ topic: "numbers", event: "x".repeat(4_000_000) })
        yield* a.flush
        yield* until("b was told a gap", () => b.told.some(isGap))
        yield* command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
        a.send({ topic: "numbers", event: 3 })
        yield* until("b heard what came after", () => b.told.at(-1)?.event === 3)
        assert.deepStrictEqual(
          b.told.filter((told) => !isGap(told)).map(({ event }) => event),
          [1, 3]
        )
      })
    )

    it.effect("a restart of the server is a gap between being disconnected and clustered again", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const [a, b] = [yield* startNode("a", "restart", 600), yield* startNode("b", "restart", 600)]
        yield* clustered(a, b)
        a.send({ topic: "numbers", event: 1 })
        yield* until("b heard the first", () => b.told.length === 1)
        yield* server.stop
        yield* until("both know", () => [a, b].every(({ statuses }) => statuses.at(-1) === "disconnected"))
        yield* server.start
        yield* clustered(a, b)
        a.send({ topic: "numbers", event: 2 })
        yield* until("b heard the second", () => b.told.at(-1)?.event === 2)
        assert.deepStrictEqual(
          b.told.filter((told) => !isGap(told)).map(({ event }) => event),
          [1, 2]
        )
        assert.isTrue(b.told.some(isGap))
        assert.deepStrictEqual(
          b.statuses.filter((status) => status !== "solitary"),
          ["clustered", "disconnected", "clustered"]
        )
      })
    )

    it.effect("a server that is frozen for a while costs what was given up, and no more", () =>
      Effect.gen(function* () {
        const { command } = yield* Server
        const pid = Number(/process_id:(\d+)/.exec(String(yield* command("INFO", "server")))?.[1])
        const [a, b] = [yield* startNode("a", "frozen", 600), yield* startNode("b", "frozen", 600)]
        yield* clustered(a, b)
        process.kill(pid, "SIGSTOP")
        yield* Effect.addFinalizer(() => Effect.sync(() => process.kill(pid, "SIGCONT")))
        a.send({ topic: "numbers", event: 1 })
        yield* until("both know", () => [a, b].every(({ statuses }) => statuses.at(-1) === "disconnected"))
        process.kill(pid, "SIGCONT")
        yield* clustered(a, b)
        a.send({ topic: "numbers", event: 2 })
        yield* until("b heard the last", () => b.told.at(-1)?.event === 2)
        assertSound(b.told, "a", 2)
      })
    )

    it.effect("leaves nothing when its scope closes, and the others know at once", () =>
      Effect.gen(function* () {
        const before = yield* clients
        const [a, b] = [yield* startNode("a", "end"), yield* startNode("b", "end")]
        yield* clustered(a, b)
        a.send({ topic: "numbers", event: 1 })
        yield* a.close
        yield* until("b is solitary", () => b.statuses.at(-1) === "solitary")
        assert.deepStrictEqual(b.told, [{ from: "a", event: 1 }])
        yield* b.close
        a.send({ topic: "numbers", event: 2 })
        assert.strictEqual(yield* clients, before)
      })
    )

    it.effect("ends within two seconds, its client as well, while the server is away", () =>
      Effect.gen(function* () {
        const server = yield* RedisServer.make
        const a = yield* Effect.provideService(startNode("a", "away"), Server, server)
        yield* server.stop
        a.send({ topic: "numbers", event: 1 })
        const [elapsed] = yield* Effect.timed(a.close)
        assert.isBelow(Duration.toMillis(elapsed), 2_500)
      })
    )

    it.effect("says with a typed error that it may not use its channel, or not publish", () =>
      Effect.gen(function* () {
        const { clientOf, command } = yield* Server
        yield* command("ACL", "SETUSER", "deaf", "on", ">secret", "+@all", "~*", "resetchannels", "&other")
        yield* command("ACL", "SETUSER", "mute", "on", ">secret", "+@all", "-publish", "~*", "&*")
        for (const user of ["deaf", "mute"]) {
          const error = yield* PubSub.layerRedis({ channel: "mine", heartbeat: "1 second" }).pipe(
            Layer.provide(clientOf(user, "secret")),
            Layer.build,
            Effect.scoped,
            Effect.flip
          )
          assert.strictEqual(error._tag, "RedisUnavailable")
          assert.include(error.message, "mine")
          assert.include(inspect(error, { depth: 5 }), "NOPERM")
        }
      })
    )

    it.effect("carries the events of a topic from one PubSub to another", () =>
      Effect.gen(function* () {
        const { client } = yield* Server
        const Dates = Topic.make("dates", { event: Schema.Date })
        const start = Effect.map(Layer.build(Layer.fresh(PubSub.layerRedis().pipe(Layer.provide(client)))), (context) =>
          Context.get(context, PubSub.PubSub)
        )
        const [here, there] = [yield* start, yield* start]
        const { messages } = yield* there.subscribe(Dates)
        yield* here.broadcast(Dates, new Date(0))
        const [first] = yield* Stream.runCollect(Stream.take(messages, 1))
        assert.deepStrictEqual(first, { _tag: "Event", event: new Date(0), node: here.node })
      })
    )
  })
})
