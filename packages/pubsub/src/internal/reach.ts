/** Calls that are to reach a process by its handle, however often it is restarted meanwhile. */
import { Child } from "@coppice/supervision"
import { Effect } from "effect"

/** A child that does not have its callers wait is asked again after this time. */
const againMillis = 100

/** A process that was stopped may be restarted with its group, or not at all: only trying again tells. */
const tries = 10

/** Calls again what a restart has ended. Dies with what the handle says when there will be no process any more. */
export const reach = <A, E, R>(call: Effect.Effect<A, E, R>, left = tries): Effect.Effect<A, E, R> =>
  Effect.catchDefect(call, (defect) => {
    if (!(defect instanceof Child.ChildUnavailable) || left === 0) return Effect.die(defect)
    switch (defect.reason) {
      case "crashed":
        return reach(call)
      case "restarting":
        return Effect.delay(
          Effect.suspend(() => reach(call)),
          againMillis
        )
      case "stopped":
        return reach(call, left - 1)
      default:
        return Effect.die(defect)
    }
  })
