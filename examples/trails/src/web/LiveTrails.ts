/**
 * The trails that somebody looks at: each is read once for all who do.
 *
 * An event says when to look, and what there is to see is read from the database, so whoever follows gets the whole of what
 * a page shows: as it is now, and again when it has changed. Where events may have been lost it is read again, and every
 * 30 seconds in any case: a process may end between a commit and the news of it.
 */
import { PubSub } from "@coppice/pubsub"
import { Cause, Context, Effect, Layer, Option, Queue, RcMap, Stream, SubscriptionRef } from "effect"
import { createHash } from "node:crypto"
import { Captures } from "../Captures.ts"
import { Followers } from "../Followers.ts"
import type { TrailId } from "../Trail.ts"
import { TrailTopic } from "../TrailEvents.ts"
import { Trails } from "../Trails.ts"
import type { UserId } from "../User.ts"
import { followerList, pageList, trailHead, trailStep } from "./views.ts"

/** The parts of a page that change with its trail. */
export interface Shown {
  /** Differs when any of them does. */
  readonly id: string
  /** Who may look at it: its owner, and those who follow it. */
  readonly readers: ReadonlySet<UserId>
  /** The markup of each, by the name of its region on the page. */
  readonly regions: Readonly<Record<"head" | "pages" | "step" | "followers", string>>
}

export class LiveTrails extends Context.Service<
  LiveTrails,
  {
    /** What is shown of a trail now, and then the latest whenever that is something else. Never ends. */
    readonly follow: (id: TrailId) => Stream.Stream<Shown>
  }
>()("trails/web/LiveTrails") {
  static readonly layer = Layer.effect(
    LiveTrails,
    Effect.gen(function* () {
      const trails = yield* Trails
      const captures = yield* Captures
      const followers = yield* Followers

      const read = Effect.fnUntraced(function* (id: TrailId) {
        const found = yield* trails.get(id)
        if (Option.isNone(found)) return undefined
        const trail = found.value
        const pages = yield* captures.list(id)
        // Last, so that who may look has been looked up after what there is to see.
        const all = yield* Effect.orDie(followers.list(trail.ownerId, id))
        const regions = {
          head: trailHead(trail).markup,
          step: trailStep(trail).markup,
          pages: pageList(pages).markup,
          followers: followerList(id, all).markup
        }
        const readers = new Set([trail.ownerId, ...all.map((user) => user.id)])
        return { id: digest(Object.values(regions)), readers, regions }
      })

      const watch = Effect.fnUntraced(function* (id: TrailId) {
        const looks = yield* Queue.sliding<void>(1)
        const seen = yield* SubscriptionRef.make<Seen>({ asked: 0, shown: undefined })
        let asked = 0
        const ask = Effect.sync(() => {
          Queue.offerUnsafe(looks, undefined)
          return ++asked
        })
        // Subscribed to before it is looked at, so that nothing is missed in between; an event more or less that waits makes
        // no difference to a look. When what carries events has crashed, the subscription goes on with a `Gap`.
        const { messages } = yield* PubSub.subscribe(TrailTopic(id), { capacity: 1 })
        const look = Effect.gen(function* () {
          yield* Effect.timeoutOption(Queue.take(looks), "30 seconds")
          const before = asked
          const shown = yield* read(id)
          yield* SubscriptionRef.set(seen, { asked: before, shown })
          // What happens within this time is seen by one look.
          yield* Effect.sleep(pause)
        })
        // While the database is down there is nothing to be seen, but there will be.
        const lookAnyway = Effect.catchCauseIf(
          look,
          (cause) => !Cause.hasInterruptsOnly(cause),
          (cause) =>
            Effect.logWarning("an open page could not be brought up to date", cause).pipe(
              Effect.andThen(Effect.sleep("2 seconds")),
              Effect.andThen(ask)
            )
        )
        yield* Effect.forkScoped(Stream.runForEach(messages, () => ask))
        yield* Effect.forkScoped(Effect.forever(lookAnyway))
        return { ask, seen }
      })

      // A page that is loaded again comes back within this time.
      const watched = yield* RcMap.make({ lookup: watch, idleTimeToLive: "1 second" })

      return {
        follow: (id) =>
          Effect.gen(function* () {
            const { ask, seen } = yield* RcMap.get(watched, id)
            const asked = yield* ask
            return SubscriptionRef.changes(seen).pipe(
              // Only what was read after somebody came: the page itself may be younger than what was read before.
              Stream.filter((last) => last.asked >= asked),
              Stream.map(({ shown }) => shown),
              Stream.filter((shown) => shown !== undefined),
              Stream.changesWith((one, other) => one.id === other.id)
            )
          }).pipe(Stream.unwrap)
      }
    })
  )
}

/** How many looks had been asked for when this one began, and what it saw. */
interface Seen {
  readonly asked: number
  readonly shown: Shown | undefined
}

const pause = "100 millis"

const digest = (texts: ReadonlyArray<string>): string =>
  createHash("sha256").update(texts.join("\0")).digest("base64url").slice(0, 22)
