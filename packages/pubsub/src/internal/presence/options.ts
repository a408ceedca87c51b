/** The times of presence, checked; public as `Presence.Options`. */
import { Duration, Schema } from "effect"

/** How often nodes tell of changes, and what silence means. All nodes should have the same. */
export interface Options {
  /**
   * Changes are broadcast at most once in this time; the first after a quiet one at once. Defaults to 1.5 seconds. What
   * happens on a node is seen there at once.
   */
  readonly broadcastPeriod?: Duration.Input | undefined
  /** After how many periods without a change a node says that it is still there. Defaults to 10: every 15 seconds. */
  readonly maxSilentPeriods?: number | undefined
  /**
   * How long a node may not be heard until those who are tracked there count as gone. When it is heard again they come
   * back, with the same refs. Longer than `broadcastPeriod` times `maxSilentPeriods`, and at least two periods. Defaults to
   * twice the time after which a silent node speaks: 30 seconds.
   */
  readonly downPeriod?: Duration.Input | undefined
  /** How long a node may not be heard until it is forgotten. Longer than `downPeriod`. Defaults to 20 minutes. */
  readonly permdownPeriod?: Duration.Input | undefined
  /**
   * Whether a node that is stopped in order says that all who are still tracked there leave. Defaults to `false`, as in
   * Phoenix.
   *
   * What users expect of an orderly stop happens without it: the scopes of requests and connections close before presence
   * does, as children stop in reverse order, so each of them leaves, and presence tells of it before it ends. This is about
   * what is tracked in scopes that outlive presence: without it, other nodes keep those for `downPeriod`, in which they may
   * be tracked again elsewhere without having left; with it, they leave at once.
   */
  readonly leaveOnShutdown?: boolean | undefined
  /** How long `fetch` may take; after it, entries are given without. Defaults to 5 seconds. */
  readonly fetchTimeout?: Duration.Input | undefined
}

/** Options that contradict each other; nothing has been started. */
export class InvalidOptions extends Schema.TaggedError<InvalidOptions>("@coppice/pubsub/Presence/InvalidOptions")(
  "InvalidOptions",
  { presence: Schema.String, problem: Schema.String }
) {
  override get message(): string {
    return `The options of presence ${this.presence} are not possible: ${this.problem}`
  }
}

/** Options with their defaults, in milliseconds. */
export interface Checked {
  readonly periodMillis: number
  readonly silentMillis: number
  readonly downMillis: number
  readonly permdownMillis: number
  readonly fetchMillis: number
  readonly leaveOnShutdown: boolean
}

/** The options, or what is wrong with them. */
export const check = (options: Options): Checked | string => {
  const periodMillis = millis(options.broadcastPeriod ?? 1_500)
  const maxSilentPeriods = options.maxSilentPeriods ?? 10
  const silentMillis = periodMillis * maxSilentPeriods
  const downMillis = millis(options.downPeriod ?? silentMillis * 2)
  const permdownMillis = millis(options.permdownPeriod ?? 20 * 60_000)
  const fetchMillis = millis(options.fetchTimeout ?? 5_000)
  if (!(periodMillis > 0)) return "broadcastPeriod must be longer than 0 ms"
  if (!Number.isInteger(maxSilentPeriods) || maxSilentPeriods < 1) {
    return `maxSilentPeriods must be an integer from 1, but is ${maxSilentPeriods}`
  }
  if (!(fetchMillis > 0)) return "fetchTimeout must be longer than 0 ms"
  if (downMillis < 2 * periodMillis) {
    return `downPeriod (${downMillis} ms) must be at least twice broadcastPeriod (${periodMillis} ms)`
  }
  if (downMillis <= silentMillis) {
    return (
      `downPeriod (${downMillis} ms) must be longer than broadcastPeriod times maxSilentPeriods (${silentMillis} ms), or`
      + " nodes without changes would be taken for down"
    )
  }
  if (permdownMillis <= downMillis) {
    return `permdownPeriod (${permdownMillis} ms) must be longer than downPeriod (${downMillis} ms)`
  }
  return {
    periodMillis,
    silentMillis,
    downMillis,
    permdownMillis,
    fetchMillis,
    leaveOnShutdown: options.leaveOnShutdown ?? false
  }
}

const millis = (duration: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(duration))
