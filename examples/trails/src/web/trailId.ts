/** The trail that the address of a request names. */
import { Effect, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { TrailId, TrailNotFound } from "../Trail.ts"

export const isTrailId = Schema.is(TrailId)

export const trailId = Effect.flatMap(HttpRouter.params, ({ id = "" }) =>
  isTrailId(id) ? Effect.succeed(id) : Effect.fail(new TrailNotFound({ id }))
)
