/**
 * Effect's data structures as services: who waits in one waits in the structure itself, not in a call of the handle.
 * When nobody can reach it any more, it is ended, so that nobody waits for ever for what no one else can bring.
 */
import { type Cause, Deferred, Effect, Exit, MutableList, PubSub, Queue, SubscriptionRef } from "effect"

/** A service that others wait in. */
export type Structure =
  | Queue.Enqueue<unknown, unknown>
  | Deferred.Deferred<unknown>
  | PubSub.PubSub<unknown>
  | SubscriptionRef.SubscriptionRef<unknown>

export const isStructure = (service: unknown): service is Structure =>
  Queue.isEnqueue(service)
  || Deferred.isDeferred(service)
  || PubSub.isPubSub(service)
  || SubscriptionRef.isSubscriptionRef(service)

/** Ends the wait of everybody who waits in a structure, and of those who will. */
export const endStructure = (structure: Structure, cause: Cause.Cause<never>): void => {
  if (Queue.isEnqueue(structure)) {
    Queue.failCauseUnsafe(structure, cause)
    // What is in it can still be taken, but not by those who wait for room in it.
    if (structure.state._tag === "Closing" && structure.state.offers.size > 0) Queue.shutdownUnsafe(structure)
  } else if (PubSub.isPubSub(structure) || SubscriptionRef.isSubscriptionRef(structure)) {
    const pubsub: PubSub.PubSub<unknown> = PubSub.isPubSub(structure) ? structure : structure.pubsub
    for (const subscriber of pubsub.subscribers.values()) {
      for (const pollers of subscriber) {
        for (const poller of MutableList.takeAll(pollers)) Deferred.doneUnsafe(poller, Exit.failCause(cause))
      }
    }
    // From here on it interrupts who takes from it: it can be shut down, but not with a reason.
    Effect.runFork(PubSub.shutdown(pubsub))
  } else {
    Deferred.doneUnsafe(structure, Exit.failCause(cause))
  }
}
