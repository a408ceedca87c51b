/** The supervision tree as it changes: server-sent events, each with the whole panel as HTML. */
import { Tree } from "@coppice/supervision"
import { Context, Effect, Latch, Layer, Schema, Stream } from "effect"
import { Sse } from "effect/encoding"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { TrailId } from "../Trail.ts"
import { processes } from "./processes.ts"

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
      yield* router.add(
        "GET",
        "/processes/events",
        Effect.gen(function* () {
          const { trail } = yield* HttpRouter.schemaParams(Schema.Struct({ trail: Schema.optionalKey(TrailId) })).pipe(
            Effect.orElseSucceed(() => ({ trail: undefined }))
          )
          const events = moments.pipe(
            Stream.mapEffect(() => Tree.snapshot),
            Stream.map((roots) => processes({ roots, crashable }, trail).markup),
            Stream.changes,
            // A reader that does not keep up gets the latest state, not a backlog.
            Stream.buffer({ capacity: 1, strategy: "sliding" }),
            Stream.map((data) => Sse.encoder.write({ _tag: "Event", event: "processes", id: undefined, data })),
            Stream.interruptWhen(closing.await)
          )
          return HttpServerResponse.stream(Stream.encodeText(Stream.concat(hello, events)), {
            contentType: "text/event-stream",
            headers: { "cache-control": "no-store", "x-accel-buffering": "no" }
          })
        })
      )
    })
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
