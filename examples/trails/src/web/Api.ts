/** The JSON endpoints, as a contract: what they take, what they answer, and every problem they may answer instead. */
import { Schema } from "effect"
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiMiddleware, HttpApiSchema, OpenApi } from "effect/http-api"
import { FollowedTrail, NewFollower } from "../Followers.ts"
import { Digest, MarkRead, Notification, NotificationId } from "../Notification.ts"
import { CapturePage, Page, PageId } from "../Page.ts"
import { NewTrail, RenameTrail, Trail, TrailId, TrailSummary } from "../Trail.ts"
import { User } from "../User.ts"
import type { CurrentUser } from "./CurrentUser.ts"
import * as Problem from "./Problem.ts"

/** Says who asks: the name in the header `x-user`, or the demo user. */
export class Authentication extends HttpApiMiddleware.Service<Authentication, { provides: CurrentUser }>()(
  "trails/web/Authentication",
  { error: Problem.UnknownUser }
) {}

/** Answers addresses and queries that do not fit the contract, and names what the guard of the server may answer. */
export class RequestProblems extends HttpApiMiddleware.Service<RequestProblems>()("trails/web/RequestProblems", {
  error: [Problem.NotFound, Problem.InvalidInput, Problem.CrossSite, Problem.WrongHost, Problem.Unavailable]
}) {}

const params = { id: TrailId }
const bodyProblems = [Problem.MalformedBody, Problem.BodyTooLarge, Problem.NotJson, Problem.InvalidInput] as const

class TrailsGroup extends HttpApiGroup.make("trails")
  .add(
    HttpApiEndpoint.get("list", "/", { success: Schema.Array(TrailSummary) }),
    HttpApiEndpoint.post("create", "/", {
      payload: NewTrail,
      success: Trail.json.pipe(HttpApiSchema.status(201)),
      error: bodyProblems
    }),
    HttpApiEndpoint.get("get", "/:id", { params, success: TrailSummary, error: Problem.NotFound }),
    HttpApiEndpoint.patch("rename", "/:id", {
      params,
      payload: RenameTrail,
      success: Trail.json,
      error: [...bodyProblems, Problem.NotFound, Problem.Conflict]
    }),
    HttpApiEndpoint.post("pause", "/:id/pause", {
      params,
      success: Trail.json,
      error: [Problem.NotFound, Problem.Conflict]
    }),
    HttpApiEndpoint.post("resume", "/:id/resume", {
      params,
      success: Trail.json,
      error: [Problem.NotFound, Problem.Conflict]
    })
  )
  .prefix("/trails") {}

class CapturesGroup extends HttpApiGroup.make("captures")
  .add(
    HttpApiEndpoint.get("list", "/", {
      params,
      query: { before: Schema.optionalKey(PageId) },
      success: Schema.Array(Page.json),
      error: Problem.NotFound
    }),
    HttpApiEndpoint.post("capture", "/", {
      params,
      payload: CapturePage,
      success: Page.json.pipe(HttpApiSchema.status(201)),
      error: [...bodyProblems, Problem.NotFound, Problem.Paused, Problem.TooManyWithRetryAfter]
    })
  )
  .prefix("/trails/:id/pages") {}

class FollowersGroup extends HttpApiGroup.make("followers").add(
  HttpApiEndpoint.get("list", "/trails/:id/followers", {
    params,
    success: Schema.Array(User.json),
    error: Problem.NotFound
  }),
  HttpApiEndpoint.post("add", "/trails/:id/followers", {
    params,
    payload: NewFollower,
    success: User.json.pipe(HttpApiSchema.status(201)),
    error: [...bodyProblems, Problem.NotFound]
  }),
  HttpApiEndpoint.delete("remove", "/trails/:id/followers/:name", {
    params: { ...params, name: Schema.String },
    success: HttpApiSchema.NoContent,
    error: Problem.NotFound
  }),
  HttpApiEndpoint.get("followed", "/followed", { success: Schema.Array(FollowedTrail) })
) {}

class NotificationsGroup extends HttpApiGroup.make("notifications")
  .add(
    HttpApiEndpoint.get("list", "/", {
      query: { before: Schema.optionalKey(NotificationId) },
      success: Schema.Array(Notification.json)
    }),
    HttpApiEndpoint.post("markRead", "/read", {
      payload: MarkRead,
      success: HttpApiSchema.NoContent,
      error: bodyProblems
    }),
    HttpApiEndpoint.get("digests", "/digests", { success: Schema.Array(Digest.json) })
  )
  .prefix("/notifications") {}

export class Api extends HttpApi.make("trails")
  .add(TrailsGroup, CapturesGroup, FollowersGroup, NotificationsGroup)
  .middleware(RequestProblems)
  .middleware(Authentication)
  .prefix("/api")
  .annotateMerge(OpenApi.annotations({ title: "Trails" })) {}
