/** By which clock durable topics go. */
import { Context } from "effect"

/**
 * Whose clock says when an event was written and when it is too old: the `database`'s, which all nodes share, or Effect's
 * `Clock`, which `TestClock` moves. How long somebody waits is always Effect's.
 */
export type TimeSource = "database" | "clock"

export const TimeSource = Context.Reference<TimeSource>("@coppice/pubsub/TimeSource", {
  defaultValue: () => "database"
})
