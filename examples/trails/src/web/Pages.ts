/**
 * The pages for people: plain HTML, plain forms. A form that worked leads to a page that may be loaded again; one that
 * did not comes back with what was typed and what is wrong with it.
 */
import { Tree } from "@coppice/supervision"
import { Effect, Schema } from "effect"
import { HttpRouter, HttpServerRequest } from "effect/http"
import * as CaptureLimiter from "../CaptureLimiter.ts"
import { Captures } from "../Captures.ts"
import { Followers } from "../Followers.ts"
import { PageId } from "../Page.ts"
import type { TrailId } from "../Trail.ts"
import * as TrailCache from "../TrailCache.ts"
import { Trails } from "../Trails.ts"
import * as Body from "./Body.ts"
import * as CurrentUser from "./CurrentUser.ts"
import { blankForm, type Form } from "./layout.ts"
import * as Problem from "./Problem.ts"
import { make as makeSurroundings, respond, seeOther } from "./Surroundings.ts"
import { isTrailId, trailId } from "./trailId.ts"
import { Viewing } from "./Viewing.ts"
import * as views from "./views.ts"

/** What a trail's page shows besides the trail. */
interface Answer {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly notice?: string
  readonly capture?: Form
  readonly rename?: Form
  readonly follow?: Form
}

/** The routes. With `crashable` the panel has buttons that crash a process. */
export const layer = (crashable: boolean) =>
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const trails = yield* Trails
      const captures = yield* Captures
      const followers = yield* Followers
      const viewing = yield* Viewing
      const { panel, reader } = yield* makeSurroundings(crashable)

      const home = (status: number, form: Form) =>
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const list = yield* trails.list(user.id)
          return respond(views.home({ reader: yield* reader(user), trails: list, form, panel: yield* panel }), {
            status
          })
        })

      const show = (id: TrailId, answer: Answer) =>
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const trail = yield* TrailCache.findReadable(user.id, id)
          const mine = trail.ownerId === user.id
          const { before } = yield* HttpRouter.schemaParams(Schema.Struct({ before: BeforePage })).pipe(
            Effect.orElseSucceed(() => ({ before: undefined }))
          )
          const pages = yield* captures.list(id, before)
          const view = views.trail({
            reader: yield* reader(user),
            trail,
            pages,
            newest: before === undefined,
            followers: mine ? yield* followers.list(user.id, id) : [],
            viewers: yield* viewing.others(user, id),
            notice: answer.notice,
            capture: answer.capture ?? blankForm,
            rename: answer.rename ?? blankForm,
            follow: answer.follow ?? blankForm,
            panel: yield* panel
          })
          return respond(view, answer)
        })

      yield* router.add("GET", "/", home(200, blankForm))

      yield* router.add(
        "POST",
        "/trails",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const values = yield* Body.form
          return yield* trails.create(user.id, values).pipe(
            Effect.map((trail) => seeOther(`/trails/${trail.id}`)),
            Effect.catchTag("ValidationError", ({ fields }) => home(422, { values, errors: fields }))
          )
        })
      )

      yield* router.add(
        "GET",
        "/trails/:id",
        Effect.flatMap(trailId, (id) => show(id, {}))
      )

      yield* router.add(
        "POST",
        "/trails/:id/pages",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const id = yield* trailId
          const values = yield* Body.form
          return yield* CaptureLimiter.take(user.id).pipe(
            Effect.andThen(captures.capture(user.id, id, values)),
            Effect.as(seeOther(`/trails/${id}`)),
            Effect.catchTags({
              ValidationError: ({ fields }) => show(id, { status: 422, capture: { values, errors: fields } }),
              TrailPaused: ({ message }) => show(id, { status: 409, notice: message, capture: { values, errors: {} } }),
              TooManyCaptures: ({ message, retryAfterSeconds }) =>
                show(id, {
                  status: 429,
                  headers: { "retry-after": String(retryAfterSeconds) },
                  notice: message,
                  capture: { values, errors: {} }
                })
            })
          )
        })
      )

      yield* router.add(
        "POST",
        "/trails/:id/name",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const id = yield* trailId
          const values = yield* Body.form
          return yield* trails.rename(user.id, id, { ...values, version: Number(values["version"]) }).pipe(
            Effect.as(seeOther(`/trails/${id}`)),
            Effect.catchTags({
              ValidationError: ({ fields }) => show(id, { status: 422, rename: { values, errors: fields } }),
              Stale: () => show(id, { status: 409, notice: staleNotice })
            })
          )
        })
      )

      yield* router.add(
        "POST",
        "/trails/:id/followers",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const id = yield* trailId
          const values = yield* Body.form
          return yield* followers.add(user.id, id, { name: values["follower"] }).pipe(
            Effect.as(seeOther(`/trails/${id}`)),
            Effect.catchTag("ValidationError", ({ fields }) =>
              show(id, { status: 422, follow: { values, errors: { follower: fields["name"] ?? [] } } })
            )
          )
        })
      )

      yield* router.add(
        "POST",
        "/trails/:id/followers/remove",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const id = yield* trailId
          const { name = "" } = yield* Body.form
          yield* followers.remove(user.id, id, name)
          return seeOther(`/trails/${id}`)
        })
      )

      // Somebody may have pressed the same button a moment earlier: then there is nothing left to do.
      for (const [step, move] of [["pause", trails.pause] as const, ["resume", trails.resume] as const]) {
        yield* router.add(
          "POST",
          `/trails/:id/${step}`,
          Effect.gen(function* () {
            const user = yield* CurrentUser.find
            const id = yield* trailId
            yield* Effect.catchTag(move(user.id, id), "InvalidTransition", () => Effect.void)
            return seeOther(`/trails/${id}`)
          })
        )
      }

      // The address of a form that came back with errors: who enters it again wants the page that the form is on.
      yield* router.add("GET", "/trails", seeOther("/"))
      yield* router.add(
        "GET",
        "/trails/:id/:form",
        Effect.map(trailId, (id) => seeOther(`/trails/${id}`))
      )

      if (!crashable) return
      yield* router.add(
        "POST",
        "/processes/crash",
        Effect.gen(function* () {
          const { headers } = yield* HttpServerRequest.HttpServerRequest
          const { path = "" } = yield* Body.form
          if (!path.includes("/")) return yield* new Problem.NotFound({ detail: `No child runs at "${path}".` })
          // What does not run now need not be crashed: the page shows what it does instead.
          yield* Effect.catchTag(Tree.kill(path), "ProcessNotFound", ({ message, status }) =>
            status === undefined ? Effect.fail(new Problem.NotFound({ detail: message })) : Effect.void
          )
          // Back to the page that the button is on. Whatever else the header says, it leads nowhere else.
          const trail = URL.parse(headers["referer"] ?? "")?.pathname.replace("/trails/", "")
          return seeOther(isTrailId(trail) ? `/trails/${trail}` : "/")
        })
      )
    })
  )

const BeforePage = Schema.optionalKey(Schema.FiniteFromString.pipe(Schema.decodeTo(PageId)))

const staleNotice =
  "The trail was changed while you were looking at it. This is how it is now: rename it if you still want to."
