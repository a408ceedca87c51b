/**
 * The capture limiter: how many pages a user may capture in a while.
 *
 * Effect's token bucket behind a process: a user may capture a minute's worth of pages at once, and then as fast as
 * tokens come back. The counts are not worth keeping: a crash forgets them, and a capture is never refused because of one.
 */
import { GenServer } from "@coppice/supervision"
import { Duration, Effect, Schema } from "effect"
import { RateLimiter } from "effect/persistence"
import type { UserId } from "./User.ts"

/** How much is too much. */
export interface Options {
  /** Captures of one user. Defaults to 60. */
  readonly perMinute?: number | undefined
  /** How many users are counted at a time; with one more, all counts start anew. Defaults to 10,000. */
  readonly maxUsers?: number | undefined
}

/** The user has captured too many pages lately. */
export class TooManyCaptures extends Schema.TaggedError<TooManyCaptures>()("TooManyCaptures", {
  perMinute: Schema.Int,
  retryAfterSeconds: Schema.Int
}) {
  override get message(): string {
    const seconds = `${this.retryAfterSeconds} second${this.retryAfterSeconds === 1 ? "" : "s"}`
    return `No more than ${this.perMinute} captures a minute, please. Try again in ${seconds}.`
  }
}

interface State {
  readonly perMinute: number
  readonly maxUsers: number
  readonly limiter: RateLimiter.RateLimiter
  /** Whose counts the limiter holds. */
  readonly users: Set<UserId>
}

export class CaptureLimiter extends GenServer.Service<CaptureLimiter>()("trails/CaptureLimiter", {
  init: (options: Options = {}) =>
    Effect.map(makeLimiter, (limiter): State => ({
      perMinute: options.perMinute ?? 60,
      maxUsers: options.maxUsers ?? 10_000,
      limiter,
      users: new Set()
    })),
  calls: {
    take: (before, user: UserId) =>
      Effect.gen(function* () {
        // The store never drops a count by itself.
        const isFull = before.users.size >= before.maxUsers && !before.users.has(user)
        const state = isFull ? { ...before, limiter: yield* makeLimiter, users: new Set<UserId>() } : before
        state.users.add(user)
        const { limiter, perMinute } = state
        const bucket = { algorithm: "token-bucket", limit: perMinute, window: "1 minute" } as const
        return yield* limiter.consume({ key: String(user), ...bucket }).pipe(
          Effect.as(GenServer.reply<void, State>(undefined, state)),
          Effect.catchReason(
            "RateLimiterError",
            "RateLimitExceeded",
            ({ retryAfter }) =>
              new TooManyCaptures({
                perMinute,
                retryAfterSeconds: Math.max(1, Math.ceil(Duration.toSeconds(retryAfter)))
              }),
            // The store is in memory: it has nothing to fail with.
            Effect.die
          )
        )
      })
  }
}) {}

/** Counts a capture of the user, or fails when there were too many. A limiter that is down lets everybody through. */
export const take = (user: UserId): Effect.Effect<void, TooManyCaptures, CaptureLimiter> =>
  Effect.catchTag(CaptureLimiter.take(user), "CallError", (error) =>
    Effect.logWarning("a capture was not counted", error)
  )

const makeLimiter = Effect.provide(RateLimiter.make, RateLimiter.layerStoreMemory)
