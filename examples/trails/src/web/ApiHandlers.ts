/** The JSON endpoints, answered. */
import { Changeset } from "@coppice/domain"
import { Effect, Layer, SchemaIssue } from "effect"
import { HttpApiBuilder, HttpApiMiddleware } from "effect/http-api"
import * as CaptureLimiter from "../CaptureLimiter.ts"
import { Captures } from "../Captures.ts"
import { Followers } from "../Followers.ts"
import { MarkRead } from "../Notification.ts"
import { Notifications } from "../Notifications.ts"
import * as TrailCache from "../TrailCache.ts"
import { Trails } from "../Trails.ts"
import type { Users } from "../Users.ts"
import { Api, Authentication, RequestProblems } from "./Api.ts"
import * as Body from "./Body.ts"
import { CurrentUser, find as findCurrentUser } from "./CurrentUser.ts"
import * as Problem from "./Problem.ts"

// Bodies are read raw and cast by the domain: one place that validates, one wording, for the endpoints and the page.

const layerTrails = HttpApiBuilder.group(
  Api,
  "trails",
  Effect.fnUntraced(function* (handlers) {
    const trails = yield* Trails
    return handlers
      .handle("list", () => Effect.flatMap(CurrentUser, (user) => trails.list(user.id)))
      .handleRaw("create", () =>
        Effect.gen(function* () {
          const user = yield* CurrentUser
          return yield* trails.create(user.id, yield* Body.json)
        }).pipe(Effect.catchTag("ValidationError", (error) => Problem.fromValidationError(error)))
      )
      .handle("get", ({ params }) =>
        Effect.flatMap(CurrentUser, (user) => TrailCache.find(user.id, params.id)).pipe(
          Effect.catchTag("TrailNotFound", (error) => Problem.fromTrailNotFound(error))
        )
      )
      .handleRaw("rename", ({ params }) =>
        Effect.gen(function* () {
          const user = yield* CurrentUser
          return yield* trails.rename(user.id, params.id, yield* Body.json)
        }).pipe(
          Effect.catchTags({
            ValidationError: (error) => Problem.fromValidationError(error),
            TrailNotFound: (error) => Problem.fromTrailNotFound(error),
            Stale: (error) => Problem.fromStale(error)
          })
        )
      )
      .handle("pause", ({ params }) =>
        Effect.flatMap(CurrentUser, (user) => trails.pause(user.id, params.id)).pipe(Effect.catchTags(moves))
      )
      .handle("resume", ({ params }) =>
        Effect.flatMap(CurrentUser, (user) => trails.resume(user.id, params.id)).pipe(Effect.catchTags(moves))
      )
  })
)

const moves = {
  TrailNotFound: (error: Parameters<typeof Problem.fromTrailNotFound>[0]) => Problem.fromTrailNotFound(error),
  InvalidTransition: (error: Parameters<typeof Problem.fromInvalidTransition>[0]) =>
    Problem.fromInvalidTransition(error)
}

const layerCaptures = HttpApiBuilder.group(
  Api,
  "captures",
  Effect.fnUntraced(function* (handlers) {
    const captures = yield* Captures
    return handlers
      .handle("list", ({ params, query }) =>
        Effect.gen(function* () {
          const user = yield* CurrentUser
          const trail = yield* TrailCache.find(user.id, params.id)
          return yield* captures.list(trail.id, query.before)
        }).pipe(Effect.catchTag("TrailNotFound", (error) => Problem.fromTrailNotFound(error)))
      )
      .handleRaw("capture", ({ params }) =>
        Effect.gen(function* () {
          const user = yield* CurrentUser
          const input = yield* Body.json
          yield* CaptureLimiter.take(user.id)
          return yield* captures.capture(user.id, params.id, input)
        }).pipe(
          Effect.catchTags({
            ValidationError: (error) => Problem.fromValidationError(error),
            TrailNotFound: (error) => Problem.fromTrailNotFound(error),
            TrailPaused: (error) => Problem.fromTrailPaused(error),
            TooManyCaptures: (error) => Problem.fromTooManyCaptures(error)
          })
        )
      )
  })
)

const layerFollowers = HttpApiBuilder.group(
  Api,
  "followers",
  Effect.fnUntraced(function* (handlers) {
    const followers = yield* Followers
    return handlers
      .handle("list", ({ params }) =>
        Effect.flatMap(CurrentUser, (user) => followers.list(user.id, params.id)).pipe(
          Effect.catchTag("TrailNotFound", (error) => Problem.fromTrailNotFound(error))
        )
      )
      .handleRaw("add", ({ params }) =>
        Effect.gen(function* () {
          const user = yield* CurrentUser
          return yield* followers.add(user.id, params.id, yield* Body.json)
        }).pipe(
          Effect.catchTags({
            ValidationError: (error) => Problem.fromValidationError(error),
            TrailNotFound: (error) => Problem.fromTrailNotFound(error)
          })
        )
      )
      .handle("remove", ({ params }) =>
        Effect.flatMap(CurrentUser, (user) => followers.remove(user.id, params.id, params.name)).pipe(
          Effect.catchTag("TrailNotFound", (error) => Problem.fromTrailNotFound(error))
        )
      )
      .handle("followed", () => Effect.flatMap(CurrentUser, (user) => followers.followedBy(user.id)))
  })
)

const layerNotifications = HttpApiBuilder.group(
  Api,
  "notifications",
  Effect.fnUntraced(function* (handlers) {
    const notifications = yield* Notifications
    return handlers
      .handle("list", ({ query }) => Effect.flatMap(CurrentUser, (user) => notifications.list(user.id, query.before)))
      .handleRaw("markRead", () =>
        Effect.gen(function* () {
          const user = yield* CurrentUser
          const { upTo } = yield* Changeset.cast(MarkRead, yield* Body.json)
          yield* notifications.markRead(user.id, upTo)
        }).pipe(Effect.catchTag("ValidationError", (error) => Problem.fromValidationError(error)))
      )
      .handle("digests", () => Effect.flatMap(CurrentUser, (user) => notifications.digests(user.id)))
  })
)

const layerAuthentication = Layer.effect(
  Authentication,
  Effect.map(
    Effect.context<Users>(),
    (context) => (handler) =>
      findCurrentUser.pipe(
        Effect.provideContext(context),
        Effect.catchTag("UserNotFound", (error) => Problem.fromUserNotFound(error)),
        Effect.flatMap((user) => Effect.provideService(handler, CurrentUser, user))
      )
  )
)

const format = SchemaIssue.makeFormatterStandardSchemaV1()

const layerRequestProblems = HttpApiMiddleware.layerSchemaErrorTransform(RequestProblems, (error) => {
  switch (error.kind) {
    case "Params":
      return new Problem.NotFound({ detail: "A trail is addressed by its id, a UUID in lower case." })
    case "Query":
    case "Headers":
    case "Payload": {
      const issues = format(error.cause.issue).issues
      const fields = Object.fromEntries(issues.map(({ message, path }) => [String(path?.[0] ?? "$"), [message]]))
      return new Problem.InvalidInput({ detail: `The ${error.kind.toLowerCase()} of the request is invalid.`, fields })
    }
    default:
      // An answer that does not fit the contract is a mistake of ours.
      return Effect.fail(error)
  }
})

/** The routes below `/api`, and their description at `/api/openapi.json`. */
export const layer = HttpApiBuilder.layer(Api, { openapiPath: "/api/openapi.json" }).pipe(
  Layer.provide([layerTrails, layerCaptures, layerFollowers, layerNotifications]),
  Layer.provide([layerAuthentication, layerRequestProblems])
)
