/** What `Domain.layer` accepts and refuses, and the words with which it refuses. */
import { Domain } from "@coppice/domain"
import { Process } from "@coppice/supervision"
import { Context, Effect, type Layer, Scope, Stream } from "effect"
import { SqlClient } from "effect/sql"

class Mailer extends Context.Service<Mailer, { readonly send: Effect.Effect<void> }>()("test/Mailer") {}
class Trails extends Context.Service<Trails, { readonly count: Effect.Effect<number> }>()("test/Trails") {}

const trails = { count: Effect.succeed(1) }
declare const requiring: <R>() => Effect.Effect<Trails["Service"], never, R>

// Accepted: the layer requires what `make` requires, and nothing is lost.
Domain.layer(Trails, Effect.succeed(trails)) satisfies Layer.Layer<Trails>
Domain.layer(Trails, requiring<SqlClient.SqlClient | Mailer>()) satisfies Layer.Layer<
  Trails,
  never,
  SqlClient.SqlClient | Mailer
>
Domain.layer(Trails, Effect.as(SqlClient.SqlClient, trails)) satisfies Layer.Layer<Trails, never, SqlClient.SqlClient>

const makeTrails = Effect.fn("Trails.make")(function* () {
  yield* Mailer
  return trails
})
Domain.layer(Trails, makeTrails()) satisfies Layer.Layer<Trails, never, Mailer>

// Accepted: what is opened inside `make` and closed before it returns is not held.
Domain.layer(Trails, Effect.scoped(Effect.as(Effect.forkScoped(Effect.never), trails)))

// @expect-error-message: A domain service holds no state: its `make` must not require Scope (a resource or fiber of its own). Move it to a process under a Supervisor.
Domain.layer(Trails, requiring<Scope.Scope>())

// @expect-error-message: its `make` must not require Scope
Domain.layer(Trails, Effect.as(Effect.forkScoped(Effect.never), trails))

// @expect-error-message: its `make` must not require Scope
Domain.layer(
  Trails,
  Effect.as(
    Effect.acquireRelease(Effect.void, () => Effect.void),
    trails
  )
)

// @expect-error-message: its `make` must not require Scope
Domain.layer(Trails, requiring<Scope.Scope | SqlClient.SqlClient>())

// @expect-error-message: its `make` must not require Scope
Domain.layer(Trails, requiring<Scope.Closeable>())

// @expect-error-message: its `make` must not require Scope
Domain.layer(Trails, requiring<Scope.Scope | Process.Process>())

const makeScoped = Effect.fn("Trails.make")(function* () {
  yield* Effect.addFinalizer(() => Effect.void)
  return trails
})
// @expect-error-message: its `make` must not require Scope
Domain.layer(Trails, makeScoped())

// @expect-error-message: A domain service holds no state: its `make` must not require Process (a life of its own). Move it to a process under a Supervisor.
Domain.layer(Trails, requiring<Process.Process>())

// @expect-error-message: its `make` must not require Process
Domain.layer(Trails, requiring<Process.Process | SqlClient.SqlClient>())

// @expect-error-message: its `make` must not require Process
Domain.layer(Trails, Effect.as(Process.link(Effect.never), trails))

// oxlint-disable-next-line typescript/no-explicit-any -- the point of this case
type Untyped = any
// @expect-error-message: its `make` requires `any`, so nothing can be checked
Domain.layer(Trails, requiring<Untyped>())

// @expect-error-message: its `make` requires `unknown`, so nothing can be checked
Domain.layer(Trails, requiring<unknown>())

// A wrapper that is generic in the requirements cannot be checked where it is written, so it is refused there ...
export const unchecked = <R>(make: Effect.Effect<Trails["Service"], never, R>) =>
  // @expect-error-message: is not assignable to parameter of type
  Domain.layer(Trails, make)

// ... unless it passes the question on to its callers.
export const checked = <R>(make: Effect.Effect<Trails["Service"], never, R> & Domain.Stateless<R, Trails["Service"]>) =>
  Domain.layer(Trails, make)
checked(requiring<Mailer>())
// @expect-error-message: its `make` must not require Scope
checked(requiring<Scope.Scope>())

// The wrong shape is still reported as the wrong shape.
// @expect-error-message: Property 'count' is missing
Domain.layer(Trails, Effect.succeed({}))

// Methods

class Watching extends Context.Service<
  Watching,
  {
    readonly watch: (id: number) => Effect.Effect<void, never, Scope.Scope>
  }
>()("test/Watching") {}
// @expect-error-message: A domain service holds no state: its method `watch` must not require Scope of its caller. Return a Stream, or close the resource inside the method with Effect.scoped.
Domain.layer(Watching, Effect.succeed({ watch: () => Effect.forkScoped(Effect.never) }))

class Subscribing extends Context.Service<
  Subscribing,
  {
    readonly all: Effect.Effect<void, never, Scope.Scope | SqlClient.SqlClient>
  }
>()("test/Subscribing") {}
// @expect-error-message: its method `all` must not require Scope
Domain.layer(Subscribing, Effect.succeed({ all: Effect.addFinalizer(() => Effect.void) }))

class Curried extends Context.Service<
  Curried,
  {
    readonly open: (id: number) => (mode: string) => Effect.Effect<void, never, Scope.Scope>
  }
>()("test/Curried") {}
// @expect-error-message: its method `open` must not require Scope
Domain.layer(Curried, Effect.succeed({ open: () => () => Effect.addFinalizer(() => Effect.void) }))

class Linking extends Context.Service<
  Linking,
  {
    readonly link: (id: number) => Effect.Effect<void, never, Process.Process>
  }
>()("test/Linking") {}
// @expect-error-message: its method `link` must not require Process of its caller. Move it to a process under a Supervisor.
Domain.layer(Linking, Effect.succeed({ link: () => Effect.asVoid(Process.link(Effect.never)) }))

class Leaking extends Context.Service<
  Leaking,
  {
    readonly changes: Stream.Stream<number, never, Scope.Scope>
  }
>()("test/Leaking") {}
// @expect-error-message: its method `changes` must not require Scope
Domain.layer(Leaking, Effect.succeed({ changes: Stream.fromEffect(Effect.as(Scope.Scope, 1)) }))

// Accepted: methods that are generic in what their argument requires, plain values, streams, functions of values.
class Fine extends Context.Service<
  Fine,
  {
    readonly locked: <A, E, R>(id: number, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
    readonly changes: Stream.Stream<number>
    readonly limit: number
    readonly slug: (name: string) => string
    readonly untyped: Untyped
  }
>()("test/Fine") {}
Domain.layer(
  Fine,
  Effect.succeed({
    locked: (_id, effect) => effect,
    changes: Stream.make(1),
    limit: 1,
    slug: (name) => name,
    untyped: 1
  })
) satisfies Layer.Layer<Fine>
