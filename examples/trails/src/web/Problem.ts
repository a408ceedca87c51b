/** What the JSON endpoints answer instead of a result: problem details (RFC 9457), one class per kind of problem. */
import type { OptimisticLock, Transition, ValidationError } from "@coppice/domain"
import { Schema } from "effect"
import { HttpApiError, HttpApiSchema } from "effect/http-api"
import type { TooManyCaptures } from "../CaptureLimiter.ts"
import { TrailNotFound, type TrailPaused } from "../Trail.ts"
import { UserNotFound } from "../Users.ts"

export class MalformedBody extends HttpApiError.Problem<MalformedBody>()("MalformedBody", {
  type: "urn:trails:malformed-body",
  status: 400,
  title: "The body could not be read."
}) {}

export class UnknownUser extends HttpApiError.Problem<UnknownUser>()("UnknownUser", {
  type: "urn:trails:unknown-user",
  status: 401,
  title: "Nobody has this name."
}) {}

export class CrossSite extends HttpApiError.Problem<CrossSite>()("CrossSite", {
  type: "urn:trails:cross-site",
  status: 403,
  title: "The request comes from another site."
}) {}

export class NotFound extends HttpApiError.Problem<NotFound>()("NotFound", {
  type: "urn:trails:not-found",
  status: 404,
  title: "There is nothing here."
}) {}

export class Paused extends HttpApiError.Problem<Paused>()("Paused", {
  type: "urn:trails:paused",
  status: 409,
  title: "The trail is paused."
}) {}

export class Conflict extends HttpApiError.Problem<Conflict>()("Conflict", {
  type: "urn:trails:conflict",
  status: 409,
  title: "The trail is no longer what it was."
}) {}

export class BodyTooLarge extends HttpApiError.Problem<BodyTooLarge>()("BodyTooLarge", {
  type: "urn:trails:body-too-large",
  status: 413,
  title: "The body is too large."
}) {}

export class NotJson extends HttpApiError.Problem<NotJson>()("NotJson", {
  type: "urn:trails:not-json",
  status: 415,
  title: "The body is not JSON."
}) {}

export class WrongHost extends HttpApiError.Problem<WrongHost>()("WrongHost", {
  type: "urn:trails:wrong-host",
  status: 421,
  title: "This server has another name."
}) {}

export class InvalidInput extends HttpApiError.Problem<InvalidInput>()(
  "InvalidInput",
  { type: "urn:trails:invalid-input", status: 422, title: "The input is invalid." },
  { fields: Schema.Record(Schema.String, Schema.Array(Schema.String)) }
) {}

export class TooMany extends HttpApiError.Problem<TooMany>()(
  "TooMany",
  { type: "urn:trails:too-many-captures", status: 429, title: "Too many captures." },
  { retryAfterSeconds: Schema.Int }
) {}

/** `TooMany` with its `Retry-After` header. */
export const TooManyWithRetryAfter = TooMany.pipe(
  HttpApiSchema.encodeToWithHeaders(
    { body: TooMany, headers: { "retry-after": Schema.Int } },
    { decode: ({ body }) => body, encode: (body) => ({ body, headers: { "retry-after": body.retryAfterSeconds } }) }
  )
)

export class Unavailable extends HttpApiError.Problem<Unavailable>()("Unavailable", {
  type: "urn:trails:unavailable",
  status: 503,
  title: "A part of the application is restarting."
}) {}

export class TooManyPages extends HttpApiError.Problem<TooManyPages>()("TooManyPages", {
  type: "urn:trails:too-many-pages",
  status: 503,
  title: "Too many pages are open."
}) {}

const all = [
  MalformedBody,
  UnknownUser,
  CrossSite,
  NotFound,
  Paused,
  Conflict,
  BodyTooLarge,
  NotJson,
  WrongHost,
  InvalidInput,
  TooMany,
  Unavailable,
  TooManyPages,
  HttpApiError.InternalServerErrorProblem
] as const

/** Any of the problems. */
export type Any = InstanceType<(typeof all)[number]>

/** The problem that an error is, or that it means to a client; none for what a client cannot do anything about. */
export const fromError = (error: unknown): Any | undefined => {
  if (error instanceof TrailNotFound) return fromTrailNotFound(error)
  if (error instanceof UserNotFound) return fromUserNotFound(error)
  return isProblem(error) ? error : undefined
}

const isProblem = (error: unknown): error is Any => all.some((problem) => error instanceof problem)

/** The problem that a failure of the domain is to a client. */
export const fromTrailNotFound = ({ message }: TrailNotFound): NotFound => new NotFound({ detail: message })
export const fromTrailPaused = ({ message }: TrailPaused): Paused => new Paused({ detail: message })
export const fromStale = ({ message }: OptimisticLock.Stale): Conflict => new Conflict({ detail: message })
export const fromInvalidTransition = ({ message }: Transition.InvalidTransition): Conflict =>
  new Conflict({ detail: message })
export const fromUserNotFound = ({ message }: UserNotFound): UnknownUser => new UnknownUser({ detail: message })
export const fromValidationError = ({ fields, message }: ValidationError.ValidationError): InvalidInput =>
  new InvalidInput({ detail: message, fields })
export const fromTooManyCaptures = ({ message, retryAfterSeconds }: TooManyCaptures): TooMany =>
  new TooMany({ detail: message, retryAfterSeconds })
