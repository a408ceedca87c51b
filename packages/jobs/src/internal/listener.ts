/**
 * Hearing other nodes: one connection of its own that listens, and proves to itself that it does.
 *
 * A pooler may swallow LISTEN, and a connection may be dead without an end. So the listener sends itself a notification at
 * the start and every half minute, and begins anew when it does not hear it. Meanwhile, and where LISTEN never works, the
 * poll finds everything: the status says `poll`.
 */
import { PgClient } from "@effect/sql-pg"
import { Clock, Effect, Queue, Random, Redacted, Schema } from "effect"
import { Reactivity } from "effect/reactivity"
import { own } from "./pool.ts"
import { scopedApart } from "./promptly.ts"
import type { Message, Signals } from "./signals.ts"

export interface Options {
  readonly channel: string
  readonly client: PgClient.PgClient
  readonly signals: Signals
  /** Whether notifications come, whenever that changes. */
  readonly onMode: (mode: "listen" | "poll") => Effect.Effect<void>
  readonly onMessage: (message: Message) => void
}

/** How long an echo may take, and how often one is asked for. */
const echoTimeout = "5 seconds"
const echoInterval = "30 seconds"

/** Between two tries to listen. */
const firstPauseMillis = 100
const longestPauseMillis = 5_000

/** Where LISTEN is swallowed it will be tomorrow as well. */
const deafPause = "1 minute"

/** The listener does not hear what it tells itself. */
class Deaf extends Schema.TaggedError<Deaf>("@coppice/jobs/Deaf")("Deaf", {}) {
  override get message(): string {
    return (
      "Notifications do not arrive: a connection pooler that does not support LISTEN, or a dead connection. New jobs are"
      + " found by polling"
    )
  }
}

export const run = (options: Options): Effect.Effect<never> =>
  Effect.gen(function* () {
    let pauseMillis = firstPauseMillis
    while (true) {
      let heard = false
      const ended = yield* Effect.result(
        // To a connection that is dead it would say UNLISTEN, and wait for the answer.
        scopedApart(
          listen(options, () => {
            heard = true
          })
        )
      )
      yield* options.onMode("poll")
      if (heard) pauseMillis = firstPauseMillis
      if (ended._tag === "Failure" && ended.failure instanceof Deaf && !heard) {
        yield* Effect.logWarning(ended.failure.message)
        yield* Effect.sleep(deafPause)
        continue
      }
      if (ended._tag === "Failure") {
        yield* Effect.logInfo(
          `The listener for new jobs lost its connection, and begins anew in ${pauseMillis} ms`,
          ended.failure
        )
      }
      const jitter = yield* Random.next
      yield* Effect.sleep(pauseMillis * (0.5 + jitter))
      pauseMillis = Math.min(longestPauseMillis, pauseMillis * 2)
    }
  })

const listen = Effect.fnUntraced(function* (options: Options, heard: () => void) {
  const { channel, client, onMessage, onMode, signals } = options
  const connection = yield* live(
    Effect.provide(
      PgClient.makeClient({ ...own(client.config), applicationName: "coppice jobs listener" }),
      Reactivity.layer
    )
  )
  const notifications = yield* connection.listen(channel)
  const echoes = yield* Queue.sliding<string>(8)
  const receive = Effect.forever(
    Effect.map(Queue.take(notifications), ({ payload }) => {
      const message = parse(payload)
      if (message === undefined) return
      if (message.echo === undefined) onMessage(message)
      else if (message.from === signals.from) Queue.offerUnsafe(echoes, message.echo)
    }),
    // Notifications come one by one anyway.
    { disableYield: true }
  )
  const test = Effect.gen(function* () {
    for (let count = 1; ; count++) {
      const echo = `${count}`
      yield* signals.send({ from: signals.from, echo })
      const answer = Effect.repeat(Queue.take(echoes), { until: (heard) => heard === echo })
      yield* Effect.timeoutOrElse(answer, { duration: echoTimeout, orElse: () => Effect.fail(new Deaf()) })
      if (count === 1) {
        heard()
        yield* onMode("listen")
      }
      yield* Effect.sleep(echoInterval)
    }
  })
  return yield* Effect.raceFirst(receive, live(test))
})

/** Sockets go by the live clock. */
const live = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

const MessageFromJson = Schema.fromJsonString(
  Schema.Struct({
    from: Schema.String,
    jobs: Schema.optionalKey(Schema.Array(Schema.String)),
    queues: Schema.optionalKey(Schema.Literal(true)),
    cancel: Schema.optionalKey(Schema.Literal(true)),
    cron: Schema.optionalKey(Schema.Literal(true)),
    due: Schema.optionalKey(Schema.Literal(true)),
    echo: Schema.optionalKey(Schema.String)
  })
)
const decode = Schema.decodeUnknownOption(MessageFromJson)

/** Anybody may notify the channel: what is not a message of ours is nothing. */
const parse = (payload: string): Message | undefined => {
  const message = decode(payload)
  return message._tag === "Some" ? message.value : undefined
}

/** Whether two configurations lead to the same database. */
export const sameDatabase = (a: PgClient.PgClientConfig, b: PgClient.PgClientConfig): boolean =>
  urlOf(a) === urlOf(b) && a.host === b.host && a.port === b.port && a.path === b.path && a.database === b.database

const urlOf = ({ url }: PgClient.PgClientConfig) => (url === undefined ? undefined : Redacted.value(url))
