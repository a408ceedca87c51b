import { Domain } from "@coppice/domain"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { Model } from "effect/schema"

class Prefix extends Context.Service<Prefix, string>()("test/Prefix") {}
class Process extends Context.Service<Process, { readonly path: string }>()("@coppice/supervision/Process") {}
class Greeter extends Context.Service<Greeter, { readonly greet: (name: string) => Effect.Effect<string> }>()(
  "test/Greeter"
) {}

const greeter = { greet: (name: string) => Effect.succeed(`hello ${name}`) }

/** What a cast does to the requirements of an effect, which the types cannot refuse. */
const forgetting = <A, E, R>(effect: Effect.Effect<A, E, R>) => effect as Effect.Effect<A, E>

const defectOf = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isDieReason)?.defect : undefined

describe("Domain.layer", () => {
  it.effect("provides the service, built with what its make requires", () =>
    Effect.gen(function* () {
      const layer = Domain.layer(
        Greeter,
        Effect.map(Prefix, (prefix) => ({ greet: (name) => Effect.succeed(`${prefix} ${name}`) }))
      )
      const greeting = yield* Effect.provide(
        Greeter.use((greeter) => greeter.greet("Ada")),
        Layer.provide(layer, Layer.succeed(Prefix, "good day,"))
      )
      assert.strictEqual(greeting, "good day, Ada")
    })
  )

  it.effect("fails with the typed error of its make", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Effect.provide(Greeter, Domain.layer(Greeter, Effect.fail("no such table" as const)))
      )
      assert.strictEqual(error, "no such table")
    })
  )

  it.effect("leaves a defect of its make as it is", () =>
    Effect.gen(function* () {
      const defect = new Error("a bug")
      const exit = yield* Effect.exit(Effect.provide(Greeter, Domain.layer(Greeter, Effect.die(defect))))
      assert.strictEqual(defectOf(exit), defect)
    })
  )

  const owning: ReadonlyArray<readonly [what: string, make: Effect.Effect<unknown, never, Scope.Scope>]> = [
    ["a forked fiber", Effect.forkScoped(Effect.never)],
    ["a finalizer", Effect.addFinalizer(() => Effect.void)],
    ["the scope itself", Scope.Scope]
  ]
  for (const [what, make] of owning) {
    it.effect(`has no scope for ${what} that a cast has hidden from the types`, () =>
      Effect.gen(function* () {
        const layer = Domain.layer(Greeter, forgetting(Effect.as(make, greeter)))
        // The test itself runs in a scope: it must not be found either.
        const defect = defectOf(yield* Effect.exit(Effect.provide(Greeter, layer)))
        assert.instanceOf(defect, Error)
        assert.include(defect.message, "test/Greeter: a domain service holds no state")
        assert.include(defect.message, "Move what needs one to a process under a Supervisor.")
        assert.instanceOf(defect.cause, Error)
      })
    )
  }

  it.effect("has no process for a make whose requirements a cast has hidden", () =>
    Effect.gen(function* () {
      const layer = Domain.layer(Greeter, forgetting(Effect.as(Process, greeter)))
      const exit = yield* Effect.exit(
        Effect.provideService(Effect.provide(Greeter, layer), Process, { path: "App/jobs" })
      )
      const defect = defectOf(exit)
      assert.instanceOf(defect, Error)
      assert.include(defect.message, "no Scope and no Process")
    })
  )

  it.effect("says of any other missing service only what Effect says", () =>
    Effect.gen(function* () {
      const layer = Domain.layer(Greeter, forgetting(Effect.as(Prefix, greeter)))
      const defect = defectOf(yield* Effect.exit(Effect.provide(Greeter, layer)))
      assert.instanceOf(defect, Error)
      assert.strictEqual(defect.message, "Service not found: test/Prefix")
    })
  )

  it.effect("lets make use a scope of its own that is closed before the service exists", () =>
    Effect.gen(function* () {
      const closed: Array<string> = []
      const make = Effect.scoped(
        Effect.as(
          Effect.addFinalizer(() => Effect.sync(() => closed.push("closed"))),
          greeter
        )
      )
      yield* Effect.provide(
        Greeter.use(() => Effect.sync(() => assert.deepStrictEqual(closed, ["closed"]))),
        Domain.layer(Greeter, make)
      )
    })
  )

  it.effect("interrupts what make forks and does not wait for: nothing outlives it", () =>
    Effect.gen(function* () {
      const events: Array<string> = []
      const make = Effect.as(
        Effect.forkChild(
          Effect.onInterrupt(Effect.never, () => Effect.sync(() => events.push("interrupted"))),
          {
            startImmediately: true
          }
        ),
        greeter
      )
      yield* Effect.provide(
        Greeter.use((greeter) => greeter.greet("Ada")),
        Domain.layer(Greeter, make)
      )
      assert.deepStrictEqual(events, ["interrupted"])
    })
  )

  it.effect("interrupts make when the building of the layer is interrupted", () =>
    Effect.gen(function* () {
      const events: Array<string> = []
      const started = yield* Deferred.make<void>()
      const make = Effect.as(
        Effect.andThen(Deferred.succeed(started, undefined), Effect.never).pipe(
          Effect.onInterrupt(() => Effect.sync(() => events.push("interrupted")))
        ),
        greeter
      )
      const building = yield* Effect.forkChild(Effect.provide(Greeter, Domain.layer(Greeter, make)))
      yield* Deferred.await(started)
      yield* Fiber.interrupt(building)
      assert.deepStrictEqual(events, ["interrupted"])
    })
  )

  it.effect("keeps the rest of the context: references and spans", () =>
    Effect.gen(function* () {
      const Limit = Context.Reference<number>("test/Limit", { defaultValue: () => 1 })
      const make = Effect.gen(function* () {
        const limit = yield* Limit
        const span = yield* Effect.option(Effect.currentSpan)
        return { greet: () => Effect.succeed(`${limit} ${span._tag}`) }
      })
      const greeting = yield* Effect.provide(
        Greeter.use((greeter) => greeter.greet("Ada")),
        Layer.provide(Domain.layer(Greeter, make), Layer.succeed(Limit, 7))
      ).pipe(Effect.withSpan("test"))
      assert.strictEqual(greeting, "7 Some")
    })
  )
})

describe("Domain.Entity", () => {
  it("gives the model back as it is", () => {
    class Trail extends Model.Class<Trail>("Trail")({ id: Model.GeneratedByDb(Schema.Int), name: Schema.String }) {}
    assert.strictEqual<unknown>(Domain.Entity(Trail), Trail)
  })

  it("makes classes that construct, decode and derive their variants", () => {
    class Trail extends Domain.Entity(
      Model.Class<Trail>("Trail")({ id: Model.GeneratedByDb(Schema.Int), name: Schema.String })
    ) {}
    const trail = Schema.decodeUnknownSync(Trail)({ id: 1, name: "Ridge" })
    assert.instanceOf(trail, Trail)
    assert.deepStrictEqual(trail, new Trail({ id: 1, name: "Ridge" }))
    assert.deepStrictEqual(Object.keys(trail), ["id", "name"])
    assert.deepStrictEqual(Trail.jsonCreate.make({ name: "Ridge" }), { name: "Ridge" })
  })
})
