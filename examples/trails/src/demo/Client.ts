/** A client of the application as other programs would write it, from the contract of its endpoints. */
import { Effect, Exit, Schedule, Schema } from "effect"
import { FetchHttpClient } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import type { TrailId } from "../Trail.ts"
import { Api } from "../web/Api.ts"

/** The endpoints of a running application. */
export const make = (baseUrl: string) => Effect.provide(HttpApiClient.make(Api, { baseUrl }), FetchHttpClient.layer)

export type Client = Effect.Success<ReturnType<typeof make>>

/** Crashes a process by the form that the page has for it. Fails when nobody answered, or nothing crashed. */
export const crash = (baseUrl: string, path: string): Effect.Effect<void, NotAnswered | NotCrashed> =>
  Effect.tryPromise({
    try: () =>
      fetch(`${baseUrl}/processes/crash`, {
        method: "POST",
        body: new URLSearchParams({ path }),
        redirect: "manual"
      }),
    catch: (cause) => new NotAnswered({ cause })
  }).pipe(
    Effect.flatMap(({ status }) => (status === 303 ? Effect.void : Effect.fail(new NotCrashed({ path, status }))))
  )

export class NotAnswered extends Schema.TaggedError<NotAnswered>()("NotAnswered", { cause: Schema.Defect() }) {}

/** The process is not there, or it is just being started again. */
export class NotCrashed extends Schema.TaggedError<NotCrashed>()("NotCrashed", {
  path: Schema.String,
  status: Schema.Int
}) {
  override get message(): string {
    return `${this.path} did not crash: the application answered ${this.status}.`
  }
}

/**
 * Captures addresses, so many at once; those that were acknowledged. A capture that the application could not answer
 * because a part of it was down is tried again, and one that is then there already was written the first time.
 */
export const captureAll = (
  client: Client,
  id: TrailId,
  urls: ReadonlyArray<string>,
  concurrency: number,
  onAcknowledged: (count: number) => void = () => {}
): Effect.Effect<ReadonlyArray<string>> => {
  const acknowledged: Array<string> = []
  const again = Schedule.spaced("50 millis").pipe(Schedule.upTo({ times: 60 }))
  const capture = (url: string) =>
    client.captures.capture({ params: { id }, payload: { url } }).pipe(
      Effect.catchTag("InvalidInput", () => Effect.void),
      Effect.retry({ schedule: again, while: (error) => error._tag === "Unavailable" }),
      Effect.exit,
      Effect.map((exit) => {
        if (Exit.isFailure(exit)) return
        acknowledged.push(url)
        onAcknowledged(acknowledged.length)
      })
    )
  return Effect.as(Effect.forEach(urls, capture, { concurrency, discard: true }), acknowledged)
}

/** All pages of a trail. */
const allPages = Effect.fnUntraced(function* (client: Client, id: TrailId) {
  const all = [...(yield* client.captures.list({ params: { id }, query: {} }))]
  for (let oldest = all.at(-1); oldest !== undefined;) {
    const older = yield* client.captures.list({ params: { id }, query: { before: oldest.id } })
    all.push(...older)
    oldest = older.at(-1)
  }
  return all
})

/** The addresses of all pages of a trail. */
export const allUrls = (client: Client, id: TrailId) =>
  Effect.map(allPages(client, id), (pages) => new Set(pages.map(({ url }) => url)))

/** All pages of a trail, once each of them was asked what it says of itself. */
export const untilFetched = (client: Client, id: TrailId) =>
  Effect.repeat(allPages(client, id), {
    until: (pages) => pages.every(({ metadata }) => metadata !== "pending"),
    schedule: Schedule.spaced("100 millis")
  })

/** All that the user was told. */
export const allNotifications = Effect.fnUntraced(function* (client: Client) {
  const all = [...(yield* client.notifications.list({ query: {} }))]
  for (let oldest = all.at(-1); oldest !== undefined;) {
    const older = yield* client.notifications.list({ query: { before: oldest.id } })
    all.push(...older)
    oldest = older.at(-1)
  }
  return all
})
