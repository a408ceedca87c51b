/** An open page, as the server sees one: a stream of events that is read as it comes, and not resumed by itself. */
import { Deferred, Effect, Schedule, type Scope } from "effect"
import { get, type IncomingMessage } from "node:http"

interface Event {
  readonly event: string
  readonly id: string | undefined
  readonly data: string
}

export interface OpenPage {
  /** All that has come. */
  readonly text: () => string
  readonly events: () => ReadonlyArray<Event>
  /** What a region shows by now. */
  readonly region: (name: string) => string
  /** Waits until a region has a text in it. */
  readonly shows: (name: string, text: string) => Effect.Effect<void>
  /** The head of the answer. */
  readonly answer: Effect.Effect<IncomingMessage>
  readonly ended: Effect.Effect<void>
  readonly leave: Effect.Effect<void>
}

export interface Options {
  readonly user: string
  readonly lastEventId?: string
}

/** Opens the events at an address until the scope closes. */
export const open = (url: string, { lastEventId, user }: Options): Effect.Effect<OpenPage, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const answered = yield* Deferred.make<IncomingMessage>()
      const ended = yield* Deferred.make<void>()
      let text = ""
      const headers = { "x-user": user, ...(lastEventId === undefined ? {} : { "last-event-id": lastEventId }) }
      const request = get(url, { agent: false, headers }, (message) => {
        message.setEncoding("utf8").on("data", (chunk: string) => (text += chunk))
        message.once("close", () => Deferred.doneUnsafe(ended, Effect.void))
        Deferred.doneUnsafe(answered, Effect.succeed(message))
      })
      request.on("error", () => Deferred.doneUnsafe(ended, Effect.void))
      const events = () => text.split("\n\n").flatMap(parse)
      const region = (name: string) => events().findLast(({ event }) => event === name)?.data ?? ""
      return {
        text: () => text,
        events,
        region,
        shows: (name: string, text: string) => eventually(() => region(name).includes(text)),
        answer: Deferred.await(answered),
        ended: Deferred.await(ended),
        leave: Effect.sync(() => request.destroy())
      }
    }),
    ({ leave }) => leave
  )

/** Looks again until it is so: what is waited for happens in sockets and in other processes. */
export const eventually = (what: () => boolean): Effect.Effect<void> =>
  Effect.asVoid(Effect.repeat(Effect.sync(what), { until: (so) => so, schedule: Schedule.spaced("10 millis") }))

const parse = (block: string): ReadonlyArray<Event> => {
  const fields = (name: string) =>
    block
      .split("\n")
      .filter((line) => line.startsWith(`${name}: `))
      .map((line) => line.slice(name.length + 2))
  const [event] = fields("event")
  return event === undefined ? [] : [{ event, id: fields("id")[0], data: fields("data").join("\n") }]
}
