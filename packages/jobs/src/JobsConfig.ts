/**
 * What all parts of a queue must agree on: in which schema it lives, and by which clock it goes.
 */
import { Context } from "effect"

/**
 * Whose clock decides what is due: the `database`'s, which all nodes share whatever their own clocks say, or Effect's
 * `Clock`, which `TestClock` moves.
 */
export type TimeSource = "database" | "clock"

/** The one switch between real and virtual time. `"database"` unless provided otherwise. */
export const TimeSource = Context.Reference<TimeSource>("@coppice/jobs/TimeSource", { defaultValue: () => "database" })

/** The database schema that holds the tables. Queues in different schemas do not meet. `"jobs"` unless provided otherwise. */
export const SchemaName = Context.Reference<string>("@coppice/jobs/SchemaName", { defaultValue: () => "jobs" })
