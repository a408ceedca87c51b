/** Bodies of requests, read with a limit. What they mean is for the domain to say. */
import { ByteSize, Effect, Record } from "effect"
import { type HttpServerError, HttpServerRequest, UrlParams } from "effect/http"
import * as Problem from "./Problem.ts"

/** More is refused, whatever is sent. */
export const maxSize = ByteSize.kibibytes(64)

/** The JSON of the current request. */
export const json = Effect.gen(function* () {
  const request = yield* HttpServerRequest.HttpServerRequest
  const contentType = request.headers["content-type"] ?? ""
  if (!/^application\/json(?:\s*;|\s*$)/i.test(contentType)) {
    return yield* new Problem.NotJson({ detail: "Send the body as application/json." })
  }
  const text = yield* Effect.mapError(request.text, unreadable)
  return yield* Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: () => new Problem.MalformedBody({ detail: "The body is not well-formed JSON." })
  })
})

/** The fields of the form in the current request; of a field that was sent twice, the first. */
export const form = Effect.gen(function* () {
  const request = yield* HttpServerRequest.HttpServerRequest
  const params = yield* Effect.mapError(request.urlParamsBody, unreadable)
  return Record.map(UrlParams.toRecord(params), (value) => (typeof value === "string" ? value : value[0]))
})

const unreadable = ({ reason }: HttpServerError.HttpServerError): Problem.BodyTooLarge | Problem.MalformedBody =>
  reason._tag === "RequestParseError" && reason.reason === "BodyTooLarge"
    ? new Problem.BodyTooLarge({ detail: `A body may have at most ${ByteSize.toNumberUnsafe(maxSize)} bytes.` })
    : new Problem.MalformedBody({ detail: "The body ended early or could not be decoded." })
