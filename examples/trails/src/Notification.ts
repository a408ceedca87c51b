/** What users are told: of each page that a trail they follow has got, and how many there were in a day. */
import { Domain } from "@coppice/domain"
import { Schema } from "effect"
import { Model } from "effect/schema"
import { TrailId } from "./Trail.ts"

/** A number that fits the column. */
export const NotificationId = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2_147_483_647 })).pipe(
  Schema.brand("NotificationId")
)
export type NotificationId = typeof NotificationId.Type

/** A word to somebody about a page, with what the page and its trail are called by now. */
export class Notification extends Domain.Entity(
  Model.Class<Notification>("trails/Notification")({
    id: NotificationId,
    trailId: TrailId,
    trailName: Schema.String,
    url: Schema.String,
    title: Schema.NullOr(Schema.String),
    createdAt: Model.DateTimeInsertFromDate,
    readAt: Model.Field({
      select: Schema.NullOr(Schema.DateTimeUtcFromDate),
      json: Schema.NullOr(Schema.DateTimeUtcFromString)
    })
  })
) {}

/** What somebody was told in a day, in numbers. */
export class Digest extends Domain.Entity(
  Model.Class<Digest>("trails/Digest")({
    /** A day of the calendar, such as "2026-11-23". */
    day: Schema.String,
    pages: Schema.Int,
    trails: Schema.Int
  })
) {}

/** The last notification that has been seen. */
export const MarkRead = Schema.Struct({ upTo: NotificationId })
