/**
 * What changes while somebody looks at a page: one stream of server-sent events for each open page, each event with the
 * whole of a region of it as HTML, named after the region.
 *
 * Whoever comes, or comes back, gets every region as it is now, and then those that change. The regions of a trail have an
 * id together: a browser that comes back with the id of what is still so (`Last-Event-ID`) is not sent it again. A reader
 * that does not keep up gets the latest state, not a backlog.
 */
import { Jobs } from "@coppice/jobs"
import { Tree } from "@coppice/supervision"
import { Cause, Context, Effect, Latch, Layer, Stream } from "effect"
import { Sse } from "effect/encoding"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import * as TrailCache from "../TrailCache.ts"
import * as CurrentUser from "./CurrentUser.ts"
import type { Html } from "./Html.ts"
import { LiveTrails, type Shown } from "./LiveTrails.ts"
import * as Problem from "./Problem.ts"
import { processes } from "./processes.ts"
import { queues } from "./queues.ts"
import { trailId } from "./trailId.ts"
import { Viewing } from "./Viewing.ts"

/**
 * Opened when the server is about to stop. A stream that never ends would keep the server waiting for it until its
 * patience is over, so streams end on this.
 */
export class Closing extends Context.Service<Closing, Latch.Latch>()("trails/web/Closing") {
  static readonly layer = Layer.effect(Closing, Latch.make(false))
}

/** How many pages are kept up to date at a time; whoever opens one more is asked to try again later. */
export const MaxOpenPages = Context.Reference<number>("trails/web/MaxOpenPages", { defaultValue: () => 1000 })

/** The routes of the events. */
export const layer = (crashable: boolean) =>
  HttpRouter.use((router) =>
    Effect.gen(function* () {
      const closing = yield* Closing
      const jobs = yield* Jobs.Jobs
      const trails = yield* LiveTrails
      const viewing = yield* Viewing
      const maxOpenPages = yield* MaxOpenPages
      let open = 0

      const counted = Effect.acquireRelease(
        Effect.sync(() => open++),
        () => Effect.sync(() => open--)
      )
      /**
       * Streams until the reader leaves, the server stops, or `leading` ends; and for ten minutes at most, for a reader may be
       * gone without the server having been told. One that is there comes back.
       */
      const respond = Effect.fnUntraced(function* (
        leading: Stream.Stream<string>,
        others: ReadonlyArray<Stream.Stream<string>>
      ) {
        if (open >= maxOpenPages) {
          return yield* new Problem.TooManyPages({ detail: "This one is not kept up to date. It will try again." })
        }
        const live = Stream.mergeAll([...others, heartbeat], { concurrency: "unbounded" }).pipe(
          Stream.merge(leading, { haltStrategy: "right" }),
          Stream.interruptWhen(Effect.raceFirst(closing.await, Effect.sleep("10 minutes")))
        )
        const all = Stream.unwrap(Effect.as(counted, Stream.concat(hello, live)))
        return HttpServerResponse.stream(Stream.encodeText(all), {
          contentType: "text/event-stream",
          headers: { "cache-control": "no-store", "x-accel-buffering": "no" }
        })
      })

      // Looked at once for all who look. Whoever comes gets the last one.
      const shared = Stream.share({ capacity: 1, strategy: "sliding", replay: 1 })
      const allProcesses = yield* moments.pipe(
        Stream.mapEffect(() => Tree.snapshot),
        Stream.map((roots) => processes({ roots, crashable })),
        shared
      )
      const allQueues = yield* shared(polled(Effect.map(Effect.orDie(jobs.queues), queues)))
      const panel = [events("processes")(allProcesses), events("queues")(allQueues)]

      yield* router.add(
        "GET",
        "/processes/events",
        Effect.suspend(() => respond(Stream.never, panel))
      )

      yield* router.add(
        "GET",
        "/trails/:id/events",
        Effect.gen(function* () {
          const { headers } = yield* HttpServerRequest.HttpServerRequest
          const user = yield* CurrentUser.find
          const id = yield* trailId
          const trail = yield* TrailCache.findReadable(user.id, id)
          const mine = trail.ownerId === user.id
          const shown = trails.follow(id).pipe(
            // The owner may have ended it since.
            Stream.takeWhile(({ readers }) => readers.has(user.id)),
            changes(mine ? ["head", "step", "pages", "followers"] : ["head", "pages"], headers["last-event-id"])
          )
          const viewers = viewing.join(user, id).pipe(events("viewers"))
          return yield* respond(shown, [viewers, ...panel])
        })
      )
    })
  )

/** The regions that have changed, in one piece; the last of them has the id of the whole. */
const changes =
  (names: ReadonlyArray<keyof Shown["regions"]>, lastEventId: string | undefined) =>
  (states: Stream.Stream<Shown>): Stream.Stream<string> =>
    states.pipe(
      Stream.buffer({ capacity: 1, strategy: "sliding" }),
      Stream.mapAccum(
        () => undefined as Shown | undefined,
        (known, shown): readonly [Shown, ReadonlyArray<string>] => {
          const before = known ?? (shown.id === lastEventId ? shown : undefined)
          const changed = names.filter((name) => shown.regions[name] !== before?.regions[name])
          const last = changed.at(-1)
          const frames = changed.map((name) => frame(name, shown.regions[name], name === last ? shown.id : undefined))
          // Whoever has it all is told so.
          return [shown, [last === undefined ? frame("beat", "", shown.id) : frames.join("")]]
        }
      )
    )

/** What is new of a region. */
const events =
  (region: string) =>
  (states: Stream.Stream<Html>): Stream.Stream<string> =>
    states.pipe(
      Stream.map(({ markup }) => markup),
      Stream.changes,
      Stream.buffer({ capacity: 1, strategy: "sliding" }),
      Stream.map((markup) => frame(region, markup, undefined))
    )

const frame = (event: string, data: string, id: string | undefined): string =>
  Sse.encoder.write({ _tag: "Event", event, id, data })

/** What the database has, every two seconds. While it is down nothing is new, but the reader wants to see what else is. */
const polled = (look: Effect.Effect<Html>): Stream.Stream<Html> =>
  Stream.tick("2 seconds").pipe(
    Stream.mapEffect(() =>
      Effect.catchCauseIf(
        Effect.map(look, (html) => [html]),
        (cause) => !Cause.hasInterruptsOnly(cause),
        (cause) => Effect.as(Effect.logWarning("an open page could not be brought up to date", cause), [])
      )
    ),
    Stream.flattenIterable
  )

/** When to look at the processes: soon after something happened, and every two seconds for the uptimes. */
const moments = Stream.merge(
  Stream.tick("2 seconds"),
  Stream.debounce(
    Stream.map(Tree.changes, () => undefined),
    "50 millis"
  )
)

/** A browser that loses the connection comes back after this many milliseconds. */
const hello = Stream.make("retry: 1000\n\n")

/** A comment for proxies, which close what is silent, and an event for the page, which does not see comments. */
const heartbeat = Stream.tick("15 seconds").pipe(
  Stream.drop(1),
  Stream.map(() => `: \n\n${frame("beat", "", undefined)}`)
)
