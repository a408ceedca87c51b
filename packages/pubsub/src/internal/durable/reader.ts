/**
 * A topic as a stream: what is there, page by page, then what comes.
 */
import { Context, Effect, Result, Schedule, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import type { SqlError } from "effect/sql/SqlError"
import type { From, Message } from "../../DurableTopic.ts"
import type { Topic } from "../../Topic.ts"
import { reach } from "../reach.ts"
import { decode } from "./events.ts"
import { type Position, zero } from "./position.ts"
import type { Page, Row, Store } from "./store.ts"
import type { WakeUps } from "./wakeUps.ts"

export interface Reading {
  readonly store: Store
  readonly wakeUps: WakeUps
  readonly pollMillis: number
}

/** How many events are read at once. */
const pageSize = 250

/** How soon to look again for what another transaction holds back; twice as long each time. */
export const firstLookMillis = 10

/** Between two tries to reach the database. */
const retries = Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("10 seconds")])

export const stream = <Event>(
  { pollMillis, store, wakeUps }: Reading,
  topic: Topic<Event>,
  from: From
): Stream.Stream<Message<Event>, SqlError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const listener = yield* wakeUps.listen(topic.id)
      let after = from === "beginning" || from === "now" ? zero : from
      const start = yield* outside(store, store.page(topic.id, after, 1))
      if (from === "now") after = start.horizon
      // Who begins at the beginning begins with what there is.
      let told = from === "beginning" ? (start.pruned ?? zero) : zero
      let lookMillis = firstLookMillis
      /** What there is to say of a page. */
      const messagesOf = (page: Page): ReadonlyArray<Message<Event>> => {
        const messages: Array<Message<Event>> = []
        if (isMissed(page.pruned, after, told)) {
          told = page.pruned
          messages.push({ _tag: "Pruned", after, until: told })
        }
        for (const row of page.rows) messages.push(messageOf(topic, row))
        after = page.rows.at(-1)?.position ?? after
        return messages
      }
      const read = Effect.retry(
        Effect.tapError(
          Effect.andThen(
            listener.reset,
            Effect.suspend(() => outside(store, reach(store.page(topic.id, after, pageSize))))
          ),
          (error) => Effect.logWarning(`A stream of ${topic.id} cannot read what comes next, and tries again`, error)
        ),
        retries
      )
      const pull: Effect.Effect<NonEmptyReadonlyArray<Message<Event>>, SqlError> = Effect.flatMap(read, (page) => {
        const [first, ...rest] = messagesOf(page)
        if (first !== undefined) {
          lookMillis = firstLookMillis
          return Effect.succeed([first, ...rest] as const)
        }
        const millis = page.held ? Math.min(lookMillis, pollMillis) : pollMillis
        lookMillis = page.held ? lookMillis * 2 : firstLookMillis
        return Effect.andThen(listener.wait(millis), pull)
      })
      return Stream.fromPull(Effect.succeed(pull))
    })
  )

/** Whether events after a position were removed, other than those that one knows of. */
export const isMissed = (pruned: Position | undefined, after: Position, told: Position): pruned is Position =>
  pruned !== undefined && pruned > after && pruned > told

const messageOf = <Event>(topic: Topic<Event>, row: Row): Message<Event> => {
  const { insertedAt, position } = row
  const event = decode(topic, row)
  return Result.isSuccess(event)
    ? { _tag: "Event", position, insertedAt, event: event.success }
    : { _tag: "Undecodable", position, insertedAt, error: event.failure }
}

/** In a transaction one would not see what comes, or not for as long as it lasts. */
export const outside = <A, E, R>({ sql }: Store, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.updateContext(
    effect,
    (context: Context.Context<R>): Context.Context<R> =>
      // Nobody asks for the service of a transaction as for one of his own.
      Context.omit(sql.transactionService)(context) as Context.Context<R>
  )
