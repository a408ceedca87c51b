/**
 * What changes while somebody looks at a page: server-sent events, each with the whole of a part of it as HTML.
 * The processes are told of what happens; the queues and the pages of a trail, which any process may change, are looked
 * at again and again.
 */
import { Jobs } from "@coppice/jobs"
import { Tree } from "@coppice/supervision"
import { Cause, Context, Effect, Latch, Layer, Schema, Stream } from "effect"
import { Sse } from "effect/encoding"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { Captures } from "../Captures.ts"
import { TrailId } from "../Trail.ts"
import * as TrailCache from "../TrailCache.ts"
import * as CurrentUser from "./CurrentUser.ts"
import type { Html } from "./Html.ts"
import { processes } from "./processes.ts"
import { queues } from "./queues.ts"
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
      const jobs = yield* Jobs.Jobs

      const pagesOf = (trail: TrailId) => Effect.map(captures.list(trail), pageList)
      const allQueues = Effect.map(Effect.orDie(jobs.queues), queues)

      yield* router.add(
        "GET",
        "/processes/events",
        Effect.gen(function* () {
          const trail = yield* shownTrail
          const panels = moments.pipe(
            Stream.mapEffect(() => Tree.snapshot),
            Stream.map((roots) => processes({ roots, crashable }, trail).markup)
          )
          const all = [
            events("processes", panels),
            events("queues", polled(allQueues)),
            ...(trail === undefined ? [] : [events("pages", polled(pagesOf(trail)))])
          ]
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

/** What the database has, every two seconds. While it is down nothing is new, but the reader wants to see what else is. */
const polled = (look: Effect.Effect<Html>): Stream.Stream<string> =>
  Stream.tick("2 seconds").pipe(
    Stream.mapEffect(() =>
      Effect.catchCauseIf(
        Effect.map(look, ({ markup }) => [markup]),
        (cause) => !Cause.hasInterruptsOnly(cause),
        (cause) => Effect.as(Effect.logWarning("an open page could not be brought up to date", cause), [])
      )
    ),
    Stream.flattenIterable
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
