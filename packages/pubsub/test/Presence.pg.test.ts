// Presence between nodes on a real PostgreSQL, in real time.
import { Postgres } from "@coppice/postgres"
import { Migrations, PubSub } from "@coppice/pubsub"
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { SqlClient } from "effect/sql"
import { type Node, eventually, node, quietly } from "./fixtures/nodes.ts"
import { shownOf, Viewers } from "./fixtures/PresenceNodes.ts"

const Database = Postgres.layerTestDatabase({
  template: { name: "pubsub", migrate: Migrations.run },
  pool: { maxConnections: 4 }
})

/** The presence of a node. */
const presenceOf = Effect.fnUntraced(function* ({ pubsub }: Node) {
  const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
  const context = yield* Layer.buildWithScope(
    Layer.fresh(Viewers.layer).pipe(Layer.provide(Layer.succeed(PubSub.PubSub, pubsub))),
    scope
  )
  const service = Context.get(context, Viewers)
  return {
    run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provideContext(effect, context),
    /** Lists are read from memory. */
    list: () => shownOf(Effect.runSync(Effect.provideService(Viewers.list(1), Viewers, service))),
    stop: Scope.close(scope, Exit.void)
  }
})

layer(Database, { excludeTestServices: true })("presence through PostgreSQL", (it) => {
  it.effect("is the same on all nodes, also with thousands, after lost connections, and when a node stops", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const nodes = yield* Effect.all([node(server.url()), node(server.url())])
        const [one, other] = yield* Effect.all([presenceOf(nodes[0]), presenceOf(nodes[1])])
        const scope = yield* Scope.make()
        const ada = yield* one.run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
        yield* other.run(Viewers.track(1, "grace", { name: "Grace" }))
        const agree = (what: string, count: number, all = [one, other]) =>
          eventually(what, () => {
            const lists = all.map(({ list }) => list())
            return lists.every((list) => list.length === count && list.join() === lists[0]?.join())
          })
        yield* agree("both are seen by both", 2)
        for (let n = 0; n < 3_000; n++) yield* other.run(Viewers.track(1, `key ${n}`, { name: `${n}` }))
        yield* agree("thousands are seen", 3_002)
        const third = yield* presenceOf(yield* node(server.url()))
        yield* agree("who comes later sees them as well", 3_002, [one, other, third])
        const sql = yield* SqlClient.SqlClient
        yield* sql`select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and application_name like 'coppice pubsub%'`
        yield* ada.update({ name: "Countess" })
        yield* agree("what has changed meanwhile is seen", 3_002, [one, other, third])
        yield* eventually("the update is seen", () => third.list().some((line) => line.endsWith("Countess")))
        yield* Scope.close(scope, Exit.void)
        yield* one.stop
        yield* agree("who has left on a node that stops is not there", 3_001, [other, third])
        assert.isFalse(other.list().some((line) => line.startsWith("ada")))
      })
    )
  )
})
