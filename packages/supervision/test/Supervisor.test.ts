import { assert, describe, it } from "@effect/vitest"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { Context, Deferred, Effect, Layer } from "effect"

class Box extends Context.Service<
  Box,
  { readonly get: Effect.Effect<number>; readonly boom: Effect.Effect<void>; readonly hang: Effect.Effect<void> }
>()("test/Box") {}
class User extends Context.Service<User, { readonly read: Effect.Effect<number> }>()("test/User") {}

const box = (starts: Array<number>) =>
  Layer.effect(
    Box,
    Effect.gen(function* () {
      starts.push(starts.length + 1)
      const n = starts.length
      const crash = yield* Deferred.make<void>()
      yield* Effect.forkScoped(Effect.andThen(Deferred.await(crash), Effect.die(`boom ${n}`)))
      return { get: Effect.sync(() => n), boom: Effect.asVoid(Deferred.succeed(crash, void 0)), hang: Effect.never }
    })
  )
const user = Layer.effect(
  User,
  Effect.map(Box, (b) => ({ read: b.get }))
)

describe("Supervisor", () => {
  it.effect("restarts a crashed layer and siblings reach the new instance", () =>
    Effect.gen(function* () {
      const starts: Array<number> = []
      const App = Supervisor.layer("App", {
        strategy: "one_for_one",
        children: [Child.layer("box", box(starts)), Child.layer("user", user)]
      })
      yield* Effect.gen(function* () {
        const b = yield* Box
        const u = yield* User
        assert.strictEqual(yield* u.read, 1)
        yield* b.boom
        yield* Effect.yieldNow
        yield* Effect.yieldNow
        assert.strictEqual(yield* u.read, 2)
        console.log(yield* Tree.render)
      }).pipe(Effect.provide(App))
    })
  )
})
