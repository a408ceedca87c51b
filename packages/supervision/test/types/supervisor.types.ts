/** What a supervisor's layer provides, fails with and requires, and the words with which a wrong order is refused. */
import { Application, Child, type Process, Supervisor } from "@coppice/supervision"
import { Context, type Effect, Layer, Schema, type Scope } from "effect"

class Database extends Context.Service<Database, { readonly query: Effect.Effect<string> }>()("app/Database") {}
class Cache extends Context.Service<Cache, { readonly get: Effect.Effect<string> }>()("app/Cache") {}
class Mailer extends Context.Service<Mailer, { readonly send: Effect.Effect<void> }>()("app/Mailer") {}
class Clock extends Context.Service<Clock, { readonly now: Effect.Effect<number> }>()("app/Clock") {}
class Refused extends Schema.TaggedError<Refused>()("Refused", {}) {}
class Broken extends Schema.TaggedError<Broken>()("Broken", {}) {}

declare const layerOf: <ROut, E = never, RIn = never>() => Layer.Layer<ROut, E, RIn>
declare const effectOf: <R, E = never>() => Effect.Effect<void, E, R>

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const exactly = <const T extends true>(): T => true as T
type RIn<L> = L extends Layer.Layer<infer _ROut, infer _E, infer R> ? R : never
type ROut<L> = L extends Layer.Layer<infer R, infer _E, infer _RIn> ? R : never
type Failure<L> = L extends Layer.Layer<infer _ROut, infer E, infer _RIn> ? E : never

// --------------------------------------------------------------------------------------------------------------------
// output, error, requirement
// --------------------------------------------------------------------------------------------------------------------

const database = Child.layer("database", layerOf<Database, Refused>())
const cache = Child.layer("cache", layerOf<Cache, Broken, Database>())
const mailer = Child.layer("mailer", layerOf<Mailer, never, Database | Cache | Clock>())

const App = Supervisor.layer("App", { strategy: "one_for_one", children: [database, cache, mailer] })
exactly<Equal<ROut<typeof App>, Database | Cache | Mailer>>()
exactly<Equal<Failure<typeof App>, Supervisor.StartError<Refused | Broken | Supervisor.InvalidOptions>>>()
// Whatever no child provides is still required; what an earlier child provides is not.
exactly<Equal<RIn<typeof App>, Clock>>()

const Empty = Supervisor.layer("Empty", { strategy: "rest_for_one", children: [] })
exactly<Equal<ROut<typeof Empty>, never>>()
exactly<Equal<RIn<typeof Empty>, never>>()
exactly<Equal<Failure<typeof Empty>, Supervisor.StartError<Supervisor.InvalidOptions>>>()

const Missing = Supervisor.layer("Missing", { strategy: "one_for_one", children: [cache, mailer] })
exactly<Equal<RIn<typeof Missing>, Database | Clock>>()

// A supervisor is a layer, so it is a child like any other.
const Nested = Supervisor.layer("Nested", {
  strategy: "one_for_one",
  children: [Child.layer("clock", layerOf<Clock>()), Child.layer("app", App), Child.effect("use", effectOf<Mailer>())]
})
exactly<Equal<ROut<typeof Nested>, Clock | Database | Cache | Mailer>>()
exactly<Equal<RIn<typeof Nested>, never>>()
Nested satisfies Layer.Layer<Clock | Database | Cache | Mailer, unknown>
exactly<
  Equal<
    Failure<typeof Nested>,
    Supervisor.StartError<
      Supervisor.InvalidOptions | Supervisor.StartError<Refused | Broken | Supervisor.InvalidOptions>
    >
  >
>()

// An effect child needs what its effect needs, but for what its supervisor gives it; its errors are nobody's type.
const worker = Child.effect("worker", effectOf<Database | Process.Process | Scope.Scope, Refused>())
exactly<Equal<typeof worker, Child.Child<"worker", never, never, Database>>>()
const Workers = Supervisor.layer("Workers", { strategy: "one_for_all", children: [database, worker] })
exactly<Equal<RIn<typeof Workers>, never>>()

// Process is never required from outside.
const linked = Child.layer("linked", layerOf<Cache, never, Process.Process | Clock>())
exactly<Equal<typeof linked, Child.Child<"linked", Cache, never, Clock>>>()

// A child may provide again what an earlier one provides, and may need what it provides itself from outside.
Supervisor.layer("Twice", {
  strategy: "one_for_one",
  children: [database, Child.layer("replica", layerOf<Database>())]
})
const Wrapper = Supervisor.layer("Wrapper", {
  strategy: "one_for_one",
  children: [Child.layer("wrapped", layerOf<Database, never, Database>())]
})
exactly<Equal<RIn<typeof Wrapper>, Database>>()
Supervisor.layer("Chain", {
  strategy: "one_for_one",
  children: [database, Child.layer("wrapped", layerOf<Database, never, Database>())]
})

// Children that were put together elsewhere: a tuple keeps what is known, an array forgets the order.
const tuple = [database, cache] as const
const FromTuple = Supervisor.layer("FromTuple", { strategy: "one_for_one", children: tuple })
exactly<Equal<RIn<typeof FromTuple>, never>>()
declare const array: ReadonlyArray<typeof database | typeof cache>
const FromArray = Supervisor.layer("FromArray", { strategy: "one_for_one", children: array })
exactly<Equal<ROut<typeof FromArray>, Database | Cache>>()
exactly<Equal<RIn<typeof FromArray>, Database>>()

// Any number of children, and those that are there on a condition, see the services of the children before them, and
// are seen by those after them.
declare const flag: boolean
declare const names: ReadonlyArray<string>
const user = <const Id extends string>(id: Id) => Child.effect(id, effectOf<Database>())
const Spread = Supervisor.layer("Spread", {
  strategy: "one_for_one",
  children: [database, ...names.map((name) => user(name))]
})
exactly<Equal<ROut<typeof Spread>, Database>>()
exactly<Equal<RIn<typeof Spread>, never>>()
const Conditional = Supervisor.layer("Conditional", {
  strategy: "one_for_one",
  children: [database, ...(flag ? [user("user")] : [])]
})
exactly<Equal<RIn<typeof Conditional>, never>>()
const Between = Supervisor.layer("Between", {
  strategy: "one_for_one",
  children: [database, ...(flag ? [Child.effect("idle", effectOf<never>())] : []), user("user")]
})
exactly<Equal<ROut<typeof Between>, Database>>()
exactly<Equal<RIn<typeof Between>, never>>()
const Replicas = Supervisor.layer("Replicas", {
  strategy: "one_for_one",
  children: [...names.map((name) => Child.layer(name, layerOf<Database, never, Clock>())), cache, user("user")]
})
exactly<Equal<ROut<typeof Replicas>, Database | Cache>>()
exactly<Equal<RIn<typeof Replicas>, Clock>>()
const Lacking = Supervisor.layer("Lacking", {
  strategy: "one_for_one",
  children: [...names.map((name) => user(name)), database]
})
exactly<Equal<RIn<typeof Lacking>, Database>>()

// One child or another.
const Either = Supervisor.layer("Either", {
  strategy: "one_for_one",
  children: [flag ? database : Child.layer("database-fake", layerOf<Database>()), cache]
})
exactly<Equal<ROut<typeof Either>, Database | Cache>>()
exactly<Equal<RIn<typeof Either>, never>>()

// Ids that are known at run time only are compared there.
declare const one: string
declare const other: string
Supervisor.layer("Named", { strategy: "one_for_one", children: [Child.layer(one, layerOf<Database>()), user(other)] })
Supervisor.layer("Named", { strategy: "one_for_one", children: [user(`user-${one}`), user(`user-${other}`)] })
Supervisor.layer("Named", { strategy: "one_for_one", children: [user(one), user("user"), user(`user-${other}`)] })
Supervisor.layer("Named", {
  strategy: "one_for_one",
  children: [user(flag ? "a" : "b"), user(flag ? "c" : "a")]
})

// Every option.
Child.layer("full", layerOf<Cache>(), {
  restart: "transient",
  shutdown: "brutal_kill",
  startTimeout: "1 second",
  whileDown: "fail",
  linkFibers: false,
  backoff: undefined
})
Child.layer("full", layerOf<Cache>(), { shutdown: "infinity" })
Child.layer("full", layerOf<Cache>(), { shutdown: 250 })

// --------------------------------------------------------------------------------------------------------------------
// a wrong order
// --------------------------------------------------------------------------------------------------------------------

// @expect-error-message: child 'cache' needs 'app/Database', which only a later child provides: move that child before 'cache'
Supervisor.layer("App", { strategy: "one_for_one", children: [cache, database] })

// Of a longer list it is the right child that is blamed.
Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [
    Child.layer("clock", layerOf<Clock>()),
    // @expect-error-message: child 'mailer' needs 'app/Cache', which only a later child provides: move that child before 'mailer'
    Child.layer("mailer", layerOf<Mailer, never, Clock | Cache>()),
    Child.layer("cache", layerOf<Cache>())
  ]
})

// An effect child is held to the order as well.
// @expect-error-message: child 'worker' needs 'app/Database', which only a later child provides
Supervisor.layer("App", { strategy: "one_for_one", children: [worker, database] })

// A nested supervisor, too: what its children lack is what it lacks.
// @expect-error-message: child 'missing' needs 'app/Database', which only a later child provides
Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [Child.layer("missing", Missing), database]
})

// With two services missing, both are named.
// @expect-error-message: 'app/Cache'
// @expect-error-message: 'app/Database'
Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [
    Child.layer("both", layerOf<Mailer, never, Cache | Database>()),
    Child.layer("cache", layerOf<Cache>()),
    database
  ]
})

// Also of a tuple that was put together elsewhere.
const wrong = [cache, database] as const
// @expect-error-message: child 'cache' needs 'app/Database'
Supervisor.layer("App", { strategy: "one_for_one", children: wrong })

// --------------------------------------------------------------------------------------------------------------------
// other mistakes
// --------------------------------------------------------------------------------------------------------------------

// @expect-error-message: two children are called 'cache': give each an id of its own
Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [Child.layer("cache", layerOf<Cache>()), Child.layer("cache", layerOf<Mailer>())]
})

// Whatever stands between them.
// @expect-error-message: two children are called 'cache': give each an id of its own
Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [Child.layer("cache", layerOf<Cache>()), user(one), Child.layer("cache", layerOf<Mailer>())]
})

// @expect-error-message: child 'a' needs 'app/Database', which only a later child provides: move that child before 'a'
Supervisor.layer("App", { strategy: "one_for_one", children: [flag ? user("a") : user("b"), database] })

// @expect-error-message: Type '"one_for_two"' is not assignable to type 'Strategy'
Supervisor.layer("App", { strategy: "one_for_two", children: [] })

// The strategy has no default, as in Elixir.
// @expect-error-message: Property 'strategy' is missing
Supervisor.layer("App", { children: [] })

// @expect-error-message: Type '"sometimes"' is not assignable to type 'Restart | undefined'
Child.layer("cache", layerOf<Cache>(), { restart: "sometimes" })

// @expect-error-message: does not exist in type 'Options'
Child.layer("cache", layerOf<Cache>(), { retries: 3 })

// What is still required is found where the tree is run.
// @expect-error-message: nothing provides 'app/Clock': add a child that does before the one that needs it, or provide its layer
Application.run(App)
Application.run(Layer.provide(App, layerOf<Clock>()))

// A bare layer is not a child: it has no id.
// @expect-error-message: missing the following properties
Supervisor.layer("App", { strategy: "one_for_one", children: [layerOf<Cache>()] })
