/** Asks a page that was captured what it says of itself, and writes it to its row. */
import { Job, Worker } from "@coppice/jobs"
import { Cause, Duration, Effect, Schema } from "effect"
import { PageFetcher, PageUnavailable } from "../PageFetcher.ts"
import { PageId } from "../Page.ts"
import { PageMetadata } from "../PageMetadata.ts"

export class MetadataWorker extends Worker.Service<MetadataWorker>()("MetadataWorker", {
  args: { pageId: PageId, url: Schema.String },
  maxAttempts: 5,
  // More than a fetch may take: this is for a database that does not answer.
  timeout: "30 seconds",
  // 5 s, 20 s, 80 s, 5 min; or as long as the server wants to be left alone.
  backoff: ({ attempt, error }) => {
    const asked = error instanceof PageUnavailable ? error.retryAfterSeconds : undefined
    return Duration.seconds(Math.max(5 * 4 ** (attempt - 1), asked ?? 0))
  }
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const fetcher = yield* PageFetcher
      const metadata = yield* PageMetadata
      return ({ args, attempt, maxAttempts }) =>
        fetcher.fetch(args.url).pipe(
          Effect.flatMap((head) => metadata.found(args.pageId, head)),
          // Cancelled, not discarded: a page that is not there is nothing that an operator could do something about.
          Effect.catchTag("PageUnreadable", ({ message }) =>
            Effect.andThen(metadata.missing(args.pageId), Job.cancel(message))
          ),
          // Nobody will ask again. A shutdown that interrupts the last attempt gives it back.
          Effect.tapCauseIf(
            (cause) => attempt >= maxAttempts && !Cause.hasInterruptsOnly(cause),
            () => metadata.missing(args.pageId)
          )
        )
    })
  )
}
