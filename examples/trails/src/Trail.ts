/** A trail: a named collection of captured pages, owned by one user. A paused trail takes no captures. */
import { Domain, Transition } from "@coppice/domain"
import { Schema } from "effect"
import { Model } from "effect/schema"
import { UserId } from "./User.ts"

/** Written as Postgres writes it: what is remembered of a trail is remembered under one key. */
export const TrailId = Schema.String.check(Schema.isUUID(), Schema.isLowercased()).pipe(Schema.brand("TrailId"))
export type TrailId = typeof TrailId.Type

export const TrailStatus = Transition.make({ active: ["paused"], paused: ["active"] })
export type TrailStatus = (typeof TrailStatus.schema)["Type"]

/** What a trail may be called: surrounding space is dropped. */
const TrailName = Schema.Trim.check(
  Schema.isNonEmpty({ message: "must not be empty" }),
  Schema.isMaxLength(80, { message: "must be no longer than 80 characters" })
)

export class Trail extends Domain.Entity(
  Model.Class<Trail>("trails/Trail")({
    id: Model.UuidV7Insert(TrailId),
    ownerId: Model.FieldExcept(["update", "jsonCreate", "jsonUpdate"])(UserId),
    name: TrailName,
    status: Model.GeneratedByDb(TrailStatus.schema),
    version: Model.GeneratedByDb(Schema.Int),
    createdAt: Model.DateTimeInsertFromDate
  })
) {}

/** What the reader of a trail sees of it. A value to be read again at any time, not the entity: this may be cached. */
export const TrailSummary = Schema.Struct({
  id: TrailId,
  ownerId: UserId,
  name: Schema.String,
  status: TrailStatus.schema,
  /** Counts up with every change of name or status. */
  version: Schema.Int,
  createdAt: Schema.DateTimeUtcFromDate,
  pages: Schema.Int
})
export type TrailSummary = typeof TrailSummary.Type

/** What may be said about a trail when it is started. */
export const NewTrail = Schema.Struct({ name: TrailName })

/** A new name, and the version of the trail that its owner was looking at. */
export const RenameTrail = Schema.Struct({ name: TrailName, version: Schema.Int })

/** There is no such trail among those of the user. */
export class TrailNotFound extends Schema.TaggedError<TrailNotFound>()("TrailNotFound", { id: Schema.String }) {
  override get message(): string {
    return `You have no trail ${this.id}. Look the trail up in your list of trails.`
  }
}

/** The trail takes no captures while it is paused. */
export class TrailPaused extends Schema.TaggedError<TrailPaused>()("TrailPaused", {
  id: TrailId,
  name: Schema.String
}) {
  override get message(): string {
    return `The trail "${this.name}" is paused. Resume it, then capture the page again.`
  }
}
