/**
 * What changes while somebody looks at a page: server-sent events, each with the whole panel of processes, or with all
 * pages of a trail, as HTML.
 */
import { Tree } from "@coppice/supervision"
import { Cause, Context, Effect, Latch, Layer, Schema, Stream } from "effect"
import { Sse } from "effect/encoding"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { Captures } from "../Captures.ts"
import { TrailId } from "../Trail.ts"
import * as TrailCache from "../TrailCache.ts"
import * as CurrentUser from "./CurrentUser.ts"
import { processes } from "./processes.ts"
import { pageList } from "./views.ts"

/**
 * Opened when the server is about to stop. A stream that never ends would keep the server waiting for it until its
 * patience is over, so streams end on this.
 */
export class Closing extends Context.Service<Closing, Latch.Latch>()("trails/web/Closing") {
  static readonly layer = Layer.effect(Closing, Latch.make(false))
}

/** The route of the events. */
export const layer = (crashable: boolean) =>
  HttpRouter.use((router) =>
    Effect.gen(function* () {
      const closing = yield* Closing
      const captures = yield* Captures

      const pagesOf = (trail: TrailId) =>
        // A worker in another process may have written them, so the database is asked again and again.
        Stream.tick("2 seconds").pipe(
          Stream.mapEffect(() => keepOn(Effect.map(captures.list(trail), (pages) => [pageList(pages).markup]))),
          Stream.flattenIterable
        )

      yield* router.add(
        "GET",
        "/processes/events",
        Effect.gen(function* () {
          const trail = yield* shownTrail
          const panels = moments.pipe(
            Stream.mapEffect(() => Tree.snapshot),
            Stream.map((roots) => processes({ roots, crashable }, trail).markup)
          )
          const all = [events("processes", panels), ...(trail === undefined ? [] : [events("pages", pagesOf(trail))])]
          const live = Stream.mergeAll(all, { concurrency: "unbounded" }).pipe(Stream.interruptWhen(closing.await))
          return HttpServerResponse.stream(Stream.encodeText(Stream.concat(hello, live)), {
            contentType: "text/event-stream",
            headers: { "cache-control": "no-store", "x-accel-buffering": "no" }
          })
        })
      )
    })
  )

/** The trail that the page shows, if it is the reader's. */
const shownTrail = Effect.gen(function* () {
  const { trail } = yield* HttpRouter.schemaParams(Schema.Struct({ trail: Schema.optionalKey(TrailId) }))
  if (trail === undefined) return undefined
  const user = yield* CurrentUser.find
  return (yield* TrailCache.find(user.id, trail)).id
}).pipe(Effect.orElseSucceed(() => undefined))

/** What is new of a part of the page. A reader that does not keep up gets the latest state, not a backlog. */
const events = (event: string, markups: Stream.Stream<string>): Stream.Stream<string> =>
  markups.pipe(
    Stream.changes,
    Stream.buffer({ capacity: 1, strategy: "sliding" }),
    Stream.map((data) => Sse.encoder.write({ _tag: "Event", event, id: undefined, data }))
  )

/** While the database is down there is nothing new of it, but the reader wants to see what else happens. */
const keepOn = <A>(look: Effect.Effect<ReadonlyArray<A>>): Effect.Effect<ReadonlyArray<A>> =>
  Effect.catchCauseIf(
    look,
    (cause) => !Cause.hasInterruptsOnly(cause),
    (cause) => Effect.as(Effect.logWarning("the pages of a trail could not be read", cause), [])
  )

/** When to look: soon after something happened, and every two seconds for the uptimes, which also keeps the line open. */
const moments = Stream.merge(
  Stream.tick("2 seconds"),
  Stream.debounce(
    Stream.map(Tree.changes, () => undefined),
    "50 millis"
  )
)

/** A browser that loses the connection comes back after this many milliseconds. */
const hello = Stream.make("retry: 1000\n\n")
