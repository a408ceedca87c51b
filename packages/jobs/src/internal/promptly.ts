/**
 * Waiting for a database no longer than it is worth: a connection may be dead without an end, and a driver needs seconds to
 * be rid of it, or, inside a transaction, waits for the answer to its rollback.
 */
import { Clock, type Duration, Effect, Exit, Fiber, Scope } from "effect"

/** Gives up waiting for an effect after a while, and interrupts it without waiting for that to succeed. */
export const promptly = <A, E, B, F, R>(
  effect: Effect.Effect<A, E, R>,
  duration: Duration.Input,
  orElse: () => Effect.Effect<B, F>
): Effect.Effect<A | B, E | F, R> =>
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

/** The same for a finalizer, which nothing else would end: by the live clock, because nobody moves a test clock then. */
export const within = <E, R>(duration: Duration.Input, effect: Effect.Effect<void, E, R>): Effect.Effect<void, E, R> =>
  Effect.provideService(
    promptly(effect, duration, () => Effect.void),
    Clock.Clock,
    Clock.Clock.defaultValue()
  )

/** As `Effect.scoped`, but the scope closes in its own time. */
export const scopedApart = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Scope.Scope>> =>
  Effect.flatMap(Scope.make(), (scope) =>
    Effect.onExit(Scope.provide(effect, scope), (exit) => Effect.forkDetach(Scope.close(scope, exit)))
  )

/** Gives what an effect acquires to a scope of its own, for whose closing the surrounding one waits no longer than that. */
export const closingWithin = <A, E, R>(
  duration: Duration.Input,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, Exclude<R, Scope.Scope> | Scope.Scope> =>
  Effect.flatMap(
    Effect.acquireRelease(Scope.make(), (scope) => within(duration, Scope.close(scope, Exit.void))),
    // What could not be acquired as a whole is of no use to the surrounding scope, however long that lasts.
    (scope) => Effect.onError(Scope.provide(effect, scope), () => within(duration, Scope.close(scope, Exit.void)))
  )
