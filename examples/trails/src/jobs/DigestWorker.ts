/** Writes the digests of the day before, for everybody who was told something on it. */
import { type Crontab, Worker } from "@coppice/jobs"
import { DateTime, Effect, Schema } from "effect"
import { Notifications } from "../Notifications.ts"

export class DigestWorker extends Worker.Service<DigestWorker>()("DigestWorker", {
  /** In which time zone days begin and end. */
  args: { timeZone: Schema.String },
  queue: "notifications",
  maxAttempts: 10
}) {
  static readonly layer = this.toLayer(
    Effect.map(Notifications, (notifications) => ({ args, cron, scheduledAt }) => {
      // The instant that was meant, not that of the attempt: a job that waited until tomorrow is still about yesterday.
      const day = dayBefore(cron?.at ?? scheduledAt, args.timeZone)
      return notifications.digest(day.name, day.from, day.until)
    })
  )
}

/** Every night at three; of the nights on which nobody was there, the last seven are made up for. */
export const nightly = (timeZone: string): Crontab.Entry => ({
  name: "digest",
  expression: "0 3 * * *",
  timeZone,
  catchUp: { all: 7 },
  job: DigestWorker.job({ timeZone })
})

/** The day of the calendar before the one in which an instant lies, with 23, 24 or 25 hours. */
export const dayBefore = (at: DateTime.Utc, timeZone: string) => {
  const until = DateTime.startOf(DateTime.setZoneNamedUnsafe(at, timeZone), "day")
  const from = DateTime.subtract(until, { days: 1 })
  return { name: DateTime.formatIsoDate(from), from: DateTime.toUtc(from), until: DateTime.toUtc(until) }
}
