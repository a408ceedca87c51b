/** Pauses between tries that fail one after the other. */
import { Effect, Random } from "effect"

export interface Backoff {
  /** Longer each time, up to the longest, and never the same. */
  readonly pause: Effect.Effect<void>
  /** The next pause is the first again. */
  readonly reset: () => void
}

export const backoff = (firstMillis = 100, longestMillis = 5_000): Backoff => {
  let millis = firstMillis
  return {
    pause: Effect.flatMap(Random.next, (random) => {
      const next = millis * (0.5 + random)
      millis = Math.min(longestMillis, millis * 2)
      return Effect.sleep(next)
    }),
    reset: () => {
      millis = firstMillis
    }
  }
}
