import { Domain } from "@coppice/domain"
import { Child, Process, Supervisor } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, type Layer } from "effect"

class Greeter extends Context.Service<Greeter, { readonly greet: (name: string) => Effect.Effect<string> }>()(
  "test/Greeter"
) {}

const greeter = { greet: (name: string) => Effect.succeed(`hello ${name}`) }

const tree = <E>(layer: Layer.Layer<Greeter, E>) =>
  Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("greeter", layer)] })

describe("Domain.layer below a supervisor", () => {
  it.effect("is a child like any other, whose service its siblings can call", () =>
    Effect.gen(function* () {
      const greeting = yield* Greeter.use((greeter) => greeter.greet("Ada"))
      assert.strictEqual(greeting, "hello Ada")
    }).pipe(Effect.provide(tree(Domain.layer(Greeter, Effect.succeed(greeter)))))
  )

  it.effect("fails the start of the tree with the error of its make", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(
        Effect.provide(Greeter, tree(Domain.layer(Greeter, Effect.fail("no such table" as const))))
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "no such table")
    })
  )

  it.effect("hides the process that builds it from a make whose requirements a cast has hidden", () =>
    Effect.gen(function* () {
      // The cast is what a careless author would write.
      const make = Effect.as(Process.link(Effect.never), greeter) as unknown as Effect.Effect<Greeter["Service"]>
      const exit = yield* Effect.exit(Effect.provide(Greeter, tree(Domain.layer(Greeter, make))))
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "a domain service holds no state")
    })
  )
})
