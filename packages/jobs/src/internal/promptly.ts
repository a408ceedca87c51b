/**
 * Waiting for a statement no longer than it is worth.
 */
import { type Duration, Effect, Fiber } from "effect"

/**
 * Gives up waiting for an effect after a while, and interrupts it without waiting for that to succeed: a driver needs
 * seconds to be rid of a connection that does not answer, and its caller has a deadline.
 */
export const promptly = <A, E, B, F>(
  effect: Effect.Effect<A, E>,
  duration: Duration.Input,
  orElse: () => Effect.Effect<B, F>
): Effect.Effect<A | B, E | F> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.forkDetach(Effect.interruptible(effect), { startImmediately: true }), (fiber) =>
      restore(
        Effect.timeoutOrElse(Effect.interruptible(Fiber.join(fiber)), {
          duration,
          orElse: () => Effect.suspend(orElse)
        })
      ).pipe(Effect.ensuring(Effect.sync(() => fiber.interruptUnsafe())))
    )
  )
