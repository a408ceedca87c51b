import type { Clock } from "effect"

/** Milliseconds of a clock that nobody sets. */
export const monotonic = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe() / 1_000n) / 1_000
