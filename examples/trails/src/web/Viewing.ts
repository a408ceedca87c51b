/** Who looks at a trail, as those see it who do: an open page counts its user among them. */
import type { Presence } from "@coppice/pubsub"
import { Context, Effect, Layer, RcMap, Stream } from "effect"
import type { TrailId } from "../Trail.ts"
import type { User } from "../User.ts"
import { keyOf, Viewers } from "../Viewers.ts"
import { html, type Html } from "./Html.ts"

export class Viewing extends Context.Service<
  Viewing,
  {
    /** Who looks at a trail besides the user, now and whenever that is somebody else. Until it ends, the user looks at it. */
    readonly join: (user: User, trail: TrailId) => Stream.Stream<Html>
    /** Who looks at a trail besides the user. */
    readonly others: (user: User, trail: TrailId) => Effect.Effect<Html>
  }
>()("trails/web/Viewing") {
  static readonly layer = Layer.effect(
    Viewing,
    Effect.gen(function* () {
      const context = yield* Effect.context<Viewers>()
      // All pages of a user are one viewer here, who has left when none of them is open, and was not loaded again at once.
      const viewers = yield* RcMap.make({
        lookup: ({ trail, user }: { readonly trail: TrailId; readonly user: User }) =>
          Effect.orDie(Viewers.track(trail, keyOf(user), { name: user.name })),
        idleTimeToLive: "2 seconds"
      })
      return {
        join: (user, trail) =>
          Viewers.changes(trail).pipe(
            Stream.provideContext(context),
            Stream.map((present) => view(present, user)),
            (views) => Stream.unwrap(Effect.as(RcMap.get(viewers, { trail, user }), views))
          ),
        others: (user, trail) =>
          Viewers.list(trail).pipe(
            Effect.provideContext(context),
            Effect.map((present) => view(present, user))
          )
      }
    })
  )
}

/** How many are named; of more than that only their number is told. */
const maxNames = 20

const view = (present: Presence.Present<{ readonly name: string }>, user: User): Html => {
  const others = [...present].filter(([key]) => key !== keyOf(user))
  const names = others.map(([, entries]) => `${entries[0]?.meta.name ?? "someone"}${places(entries.length)}`).toSorted()
  const here = places(present.get(keyOf(user))?.length ?? 1)
  if (names.length === 0) return html`Only you are looking at this${here}.`
  const named = names.slice(0, maxNames)
  const more = names.length - named.length
  return html`Looking at this with you${here}: ${named.join(", ")}${more > 0 && ` and ${more} more`}.`
}

/** A user is tracked once by each node where they have pages open. */
const places = (nodes: number): string => (nodes > 1 ? ` (on ${nodes} servers)` : "")
