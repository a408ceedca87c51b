// What the compiler says to those who run a tree that lacks something, or give a server what it must not hold.
import { Domain } from "@coppice/domain"
import { Application, Child, GenServer, Supervisor } from "@coppice/supervision"
import { Context, Effect, Layer, Schema } from "effect"
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
