/** What is told of an attempt that has ended, once what became of its job is written. */
import { Duration } from "effect"
import type { Attempt, Ended, JobEvent } from "../JobEvent.ts"
import type { Verdict } from "./attempt.ts"
import type { ClaimedRow } from "./claim.ts"
import type { Settled } from "./settle.ts"

/** How long a job had been due when it was claimed. */
export const waitedMillis = ({ attempted_at, scheduled_at }: ClaimedRow): number =>
  Math.max(0, attempted_at.getTime() - scheduled_at.getTime())

/** A verdict is absent for a plain completion, and what was written for a job that is somebody else's by now. */
export const endEvent = (
  attempt: Attempt,
  row: ClaimedRow,
  durationMillis: number,
  verdict: Verdict | undefined,
  written: Omit<Settled, "id"> | undefined
): JobEvent => {
  if (written === undefined) return { _tag: "LeaseLost", ...attempt }
  const { reason, state } = written
  const end: Ended = {
    ...attempt,
    duration: Duration.millis(durationMillis),
    waited: Duration.millis(waitedMillis(row))
  }
  const why = {
    kind: verdict?.line.error?.kind ?? verdict?.kind ?? "",
    message: verdict?.line.error?.message ?? verdict?.message ?? ""
  }
  switch (state) {
    case "completed":
      return { _tag: "Completed", ...end }
    case "cancelled":
      return {
        _tag: "Cancelled",
        ...attempt,
        reason: reason ?? (verdict?.kind === "cancelled" ? why.message : "Cancelled on request")
      }
    case "discarded":
      return { _tag: "Discarded", ...end, ...why }
    default:
      return verdict?.kind === "handed back"
        ? { _tag: "HandedBack", ...attempt }
        : verdict?.kind === "snoozed"
          ? { _tag: "Snoozed", ...end, snoozedFor: verdict.delay }
          : { _tag: "Retryable", ...end, ...why, retryIn: verdict?.delay ?? Duration.zero }
  }
}
