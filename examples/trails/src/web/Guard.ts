/**
 * What every request passes: who may ask at all, how much may be sent, what the browser is told about the answer, and
 * what becomes of a failure that nobody handled.
 */
import { Postgres } from "@coppice/postgres"
import { Child } from "@coppice/supervision"
import { Cause, Effect, identity } from "effect"
import { HttpRouter, HttpServerError, HttpServerRequest, HttpServerRespondable, HttpServerResponse } from "effect/http"
import { HttpApiError } from "effect/http-api"
import * as Body from "./Body.ts"
import * as Problem from "./Problem.ts"
import * as views from "./views.ts"

/** Whether an address is one of this machine only. */
export const isLoopback = (host: string): boolean => /^(localhost|127(\.\d+){3}|::1|\[::1\])$/i.test(host)

/** The middleware around all routes of a server that listens on `host`. */
export const layer = (host: string) => HttpRouter.middleware(guard(host), { global: true })

const guard =
  (host: string) =>
  <E, R>(
    handler: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
  ): Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest> =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const problem = refuse(request, host)
      const response = yield* (problem === undefined ? handler : Effect.die(problem)).pipe(
        Effect.provideService(HttpServerRequest.MaxBodySize, Body.maxSize),
        Effect.catchCauseIf(
          (cause) => !Cause.hasInterruptsOnly(cause),
          (cause) => Effect.flatMap(explain(cause), (problem) => answer(request, problem))
        )
      )
      return HttpServerResponse.setHeaders(response, headers)
    })

const headers = {
  // Nothing inline and nothing from elsewhere, should a hole in the escaping ever let markup through.
  "content-security-policy":
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    + "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
  "referrer-policy": "same-origin",
  "x-content-type-options": "nosniff"
}

const refuse = (request: HttpServerRequest.HttpServerRequest, host: string): Problem.Any | undefined => {
  const { headers, method } = request
  // A foreign name that was made to resolve to this machine would let another site read what only this machine may see.
  if (isLoopback(host) && !isLoopback(hostname(headers["host"]))) {
    return new Problem.WrongHost({ detail: "This server answers to localhost only." })
  }
  if (method === "GET" || method === "HEAD" || method === "OPTIONS") return undefined
  // Browsers say where a request comes from; programs that say nothing hold no cookies to be misused.
  const site = headers["sec-fetch-site"]
  const origin = headers["origin"]
  const own =
    site !== undefined
      ? site === "same-origin" || site === "none"
      : origin === undefined || URL.parse(origin)?.host === headers["host"]
  return own ? undefined : new Problem.CrossSite({ detail: "Changes are only accepted from pages of this server." })
}

const hostname = (host: string | undefined): string => URL.parse(`http://${host}`)?.hostname ?? ""

/** The problem that a failure is to the client. What nobody foresaw is logged, and the client is told no more than that. */
const explain = (cause: Cause.Cause<unknown>): Effect.Effect<Problem.Any> => {
  for (const reason of cause.reasons) {
    if (Cause.isInterruptReason(reason)) continue
    const error: unknown = Cause.isFailReason(reason) ? reason.error : reason.defect
    const problem = Problem.fromError(error)
    if (problem !== undefined) return Effect.succeed(problem)
    if (HttpServerError.isHttpServerError(error) && error.reason._tag === "RouteNotFound") {
      return Effect.succeed(new Problem.NotFound({ detail: "This address leads nowhere." }))
    }
    if (error instanceof Child.ChildUnavailable || Postgres.isTransient(error)) {
      return Effect.as(
        Effect.logWarning("a request failed because a child was down", cause),
        new Problem.Unavailable({ detail: "Try again in a moment." })
      )
    }
  }
  return Effect.as(Effect.logError("a request failed", cause), new HttpApiError.InternalServerErrorProblem())
}

const answer = (
  request: HttpServerRequest.HttpServerRequest,
  problem: Problem.Any
): Effect.Effect<HttpServerResponse.HttpServerResponse> =>
  Effect.map(
    request.url.startsWith("/api/") ? HttpServerRespondable.toResponse(problem) : Effect.succeed(page(problem)),
    problem instanceof Problem.Unavailable ? HttpServerResponse.setHeader("retry-after", "1") : identity
  )

/** A problem as a page for people. */
const page = (problem: Problem.Any): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(views.failure({ title: problem.title, detail: problem.detail }).markup, {
    status: problem.status,
    contentType: "text/html; charset=utf-8"
  })
