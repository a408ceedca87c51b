/**
 * What the domain tells the rest of the application: that a trail changed, once the change has committed.
 *
 * A port: the domain says it, the application decides who listens (today the trail cache of this process).
 */
import { Context, Effect, Layer } from "effect"
import type { TrailId } from "./Trail.ts"

export class TrailEvents extends Context.Service<
  TrailEvents,
  { readonly changed: (id: TrailId) => Effect.Effect<void> }
>()("trails/TrailEvents") {
  /** Nobody listens. */
  static readonly layerSilent = Layer.succeed(TrailEvents, { changed: () => Effect.void })
}
