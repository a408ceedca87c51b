/**
 * Events of the queue as structured log lines: a message a person reads, and the rest as annotations.
 */
import { Duration, Effect, Layer, type LogLevel, Stream } from "effect"
import type { JobEvent } from "./JobEvent.ts"
import { Jobs } from "./internal/jobsService.ts"

/** Which events are logged: all of them, those that somebody should look at, or none. */
export type Which = "all" | "problems" | "none"

/**
 * Logs events of the `Jobs` service. `Jobs.layer` does this by itself for problems; take this where all are wanted, or
 * with a `log` of `"none"` there.
 */
export const layer = (which: Which = "all"): Layer.Layer<never, never, Jobs> =>
  Layer.effectDiscard(
    // It listens when the layer is there, so that nothing that comes then is missed.
    Effect.flatMap(Jobs, (jobs) => Effect.forkScoped(run(jobs.events, which), { startImmediately: true }))
  )

/** Logs a stream of events for as long as it goes on. */
export const run = (events: Stream.Stream<JobEvent>, which: Which): Effect.Effect<void> =>
  which === "none" ? Effect.void : Stream.runForEach(events, (event) => log(event, which))

const log = (event: JobEvent, which: Which): Effect.Effect<void> => {
  const { _tag, ...rest } = event
  const level = levels[_tag] ?? "Debug"
  if (which === "problems" && (level === "Debug" || level === "Info")) return Effect.void
  const annotations = Object.fromEntries(
    Object.entries(rest).map(([key, value]) => [key, Duration.isDuration(value) ? Duration.toMillis(value) : value])
  )
  return Effect.annotateLogs(Effect.logWithLevel(level)(describe(event)), { event: _tag, ...annotations })
}

/** What somebody should look at; the rest is `Debug`. */
const levels: Partial<Record<JobEvent["_tag"], LogLevel.Severity>> = {
  Completed: "Info",
  Cancelled: "Info",
  Snoozed: "Info",
  QueueChanged: "Info",
  Retryable: "Warn",
  Unclaimable: "Warn",
  LeaseLost: "Warn",
  Rescued: "Warn",
  Slow: "Warn",
  Discarded: "Error",
  Stuck: "Error"
}

const describe = (event: JobEvent): string => {
  const job = "worker" in event ? `${event.worker} ${event.id}` : ""
  switch (event._tag) {
    case "Completed":
      return `${job} completed in ${Duration.format(event.duration)}`
    case "Retryable":
      return `${job} failed at attempt ${event.attempt} and is tried again in ${Duration.format(event.retryIn)}: ${firstLine(event.message)}`
    case "Discarded":
      return `${job} is discarded at attempt ${event.attempt}: ${firstLine(event.message)}`
    case "Cancelled":
      return `${job} is cancelled: ${event.reason}`
    case "Snoozed":
      return `${job} snoozes for ${Duration.format(event.snoozedFor)}`
    case "Unclaimable":
      return `${job} is left to other nodes: ${event.reason} on this one`
    case "LeaseLost":
      return `${job} is not this node's any more: what it did was not written`
    case "Rescued":
      return `${job} was taken from ${event.node}, which was lost; it is ${event.to} now`
    case "Slow":
      return `${job} has been running for ${Duration.format(event.runningFor)}`
    case "Stuck":
      return `${job} was interrupted ${Duration.format(event.interruptedFor)} ago and does not end`
    case "Staged":
      return `${event.count} jobs became available`
    case "Pruned":
      return `${event.count} finished jobs left the history`
    case "QueueChanged":
      return `Queue ${event.queue} was ${event.change}`
    case "WakeUpMode":
      return event.mode === "listen" ? "New jobs are told by notifications" : "New jobs are found by polling"
    default:
      return `${job} ${event._tag}`
  }
}

/** The whole of it, which may be a stack, is in the annotations. */
const firstLine = (message: string): string => message.split("\n", 1)[0] ?? ""
