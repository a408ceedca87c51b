// What the compiler says to those who run a tree that lacks something, or give a server what it must not hold.
import { Domain } from "@coppice/domain"
import { Application, Child, GenServer, Supervisor } from "@coppice/supervision"
import { Context, Effect, Layer, Option, Schema } from "effect"
import { Model } from "effect/schema"

class Words extends Context.Service<Words, { readonly next: Effect.Effect<string> }>()("app/Words") {}

const speaker = Effect.flatMap(Words, (words) => words.next)

const Incomplete = Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [Child.effect("speaker", speaker)]
})

export const run = () =>
  // @expect-error-message: nothing provides 'app/Words': add a child that does before the one that needs it, or provide its layer
  Application.run(Incomplete)

export const wrongOrder = Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [
    // @expect-error-message: child 'speaker' needs 'app/Words', which only a later child provides: move that child before 'speaker'
    Child.effect("speaker", speaker),
    Child.layer("words", Layer.succeed(Words, { next: Effect.succeed("hello") }))
  ]
})

class Page extends Domain.Entity(
  Model.Class<Page>("Page")({ id: Model.GeneratedByDb(Schema.Int), url: Schema.String })
) {}

export const holder = GenServer.Service<never>()(
  "app/Holder",
  // @expect-error-message: a process must not hold domain entities: they live in the database
  { init: () => Effect.succeed({ pages: new Map<number, Page>() }) }
)

export const reserved = GenServer.Service<never>()("app/Reserved", {
  init: () => Effect.succeed(0),
  calls: {
    // @expect-error-message: 'layer' is a name of the class itself: call the handler something else
    layer: (state: number) => Effect.succeed(GenServer.reply(state, state))
  }
})

export const both = GenServer.Service<never>()(
  "app/Both",
  // @expect-error-message: a handler is either a call or a cast: 'add' is both
  {
    init: () => Effect.succeed(0),
    calls: { add: (state) => Effect.succeed(GenServer.reply(state, state)) },
    casts: { add: (state) => Effect.succeed(state) }
  }
)

export const cache = GenServer.Service<never>()(
  "app/Cache",
  // @expect-error-message: a process must not hold domain entities: they live in the database
  { init: () => Effect.succeed({ entries: new Map<string, { readonly page: Page; readonly at: number }>() }) }
)

export const optional = GenServer.Service<never>()(
  "app/Optional",
  // @expect-error-message: a process must not hold domain entities: they live in the database
  { init: () => Effect.succeed({ last: Option.none<Page>() }) }
)

class Idle extends Context.Service<Idle, { readonly rest: Effect.Effect<void> }>()("app/Idle") {}

class Mixed extends GenServer.Service<Mixed>()("app/Mixed", {
  init: () => Effect.succeed(0),
  calls: {
    sum: (state, ...numbers: ReadonlyArray<number>) =>
      Effect.succeed(
        GenServer.reply(
          numbers.reduce((a, b) => a + b, state),
          state
        )
      )
  },
  continue: (state, word: string) =>
    Effect.as(
      Effect.flatMap(Words, () => Effect.log(word)),
      state
    ),
  idle: {
    after: "1 second",
    handle: (state) =>
      Effect.as(
        Effect.flatMap(Idle, (idle) => idle.rest),
        state
      )
  }
}) {}

export const needs: Layer.Layer<Mixed, never, Words | Idle> = Mixed.layer()
export const summed: Effect.Effect<number, GenServer.CallError, Mixed> = Mixed.sum(1, 2, 3)
