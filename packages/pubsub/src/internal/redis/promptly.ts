/** Waiting for an end no longer than it is worth: a connection that is being opened does not let go before it fails. */
import { Clock, type Duration, Effect, Fiber } from "effect"

/** Waits for an effect for so long, and then lets it be. */
export const within = <E, R>(
  duration: Duration.Input,
  effect: Effect.Effect<unknown, E, R>
): Effect.Effect<void, never, R> =>
  Effect.flatMap(Effect.forkDetach(Effect.interruptible(effect), { startImmediately: true }), (fiber) =>
    Effect.andThen(
      awaitUpTo(duration, fiber),
      Effect.sync(() => fiber.interruptUnsafe())
    )
  )

/** As the effect is, but its interruption is waited for no longer than that. */
export const interruptedWithin = <A, E, R>(
  duration: Duration.Input,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.forkDetach(Effect.interruptible(effect), { startImmediately: true }), (fiber) =>
      restore(Fiber.join(fiber)).pipe(
        Effect.onInterrupt(() => {
          fiber.interruptUnsafe()
          return awaitUpTo(duration, fiber)
        })
      )
    )
  )

/** By the live clock, because nobody moves a test clock then. */
const awaitUpTo = (duration: Duration.Input, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void> =>
  Effect.provideService(
    Effect.asVoid(Effect.timeoutOption(Effect.interruptible(Fiber.await(fiber)), duration)),
    Clock.Clock,
    Clock.Clock.defaultValue()
  )
