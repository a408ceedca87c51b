/** What changesets, transitions and optimistic locks refuse at compile time. */
import { Changeset, OptimisticLock, Transition, type ValidationError } from "@coppice/domain"
import { type Effect, Schema } from "effect"
import { Model } from "effect/schema"
import type { SqlError } from "effect/sql"

const TrailStatus = Transition.make({ draft: ["active"], active: ["paused"], paused: ["active"] })

class Trail extends Model.Class<Trail>("Trail")({
  id: Model.GeneratedByDb(Schema.Int),
  name: Schema.String,
  note: Model.FieldOption(Schema.String),
  status: TrailStatus.schema,
  version: Model.GeneratedByDb(Schema.Int)
}) {}

declare const trail: Trail

// Transition

Transition.make({
  draft: ["active"],
  // @expect-error-message: Type '"lost"' is not assignable to type
  active: ["lost"]
})

Transition.allows(TrailStatus, "draft", "active") satisfies boolean
// @expect-error-message: Argument of type '"lost"' is not assignable to parameter of type
Transition.allows(TrailStatus, "draft", "lost")
// @expect-error-message: Argument of type 'string' is not assignable to parameter of type
Transition.check(TrailStatus, String("draft"), "active")

const table = { tableName: "trails", spanPrefix: "Trails", idColumn: "id" } as const
Transition.makeUpdate(TrailStatus, Trail, { ...table, statusColumn: "status" })
Transition.makeUpdate(TrailStatus, Trail, { ...table, statusColumn: "status", versionColumn: "version" })
Transition.makeUpdate(TrailStatus, Trail, {
  ...table,
  // @expect-error-message: Type '"name"' is not assignable to type '"status"'
  statusColumn: "name"
})

declare const move: Effect.Success<
  ReturnType<typeof Transition.makeUpdate<"draft" | "active" | "paused", typeof Trail, "id", "status", "version">>
>
move(1, "paused", { name: "x" }) satisfies Effect.Effect<
  Trail,
  Transition.InvalidTransition | Transition.RowNotFound | Schema.SchemaError | SqlError.SqlError
>
// @expect-error-message: Argument of type '"lost"' is not assignable to parameter of type
move(1, "lost")
// @expect-error-message: 'status' does not exist in type
move(1, "paused", { status: "active" })

// OptimisticLock

OptimisticLock.makeUpdate(Trail, { ...table, versionColumn: "version" })
OptimisticLock.makeUpdate(Trail, {
  ...table,
  // @expect-error-message: Type '"name"' is not assignable to type 'FieldOf<typeof Trail, number>'
  versionColumn: "name"
})

declare const update: Effect.Success<ReturnType<typeof OptimisticLock.makeUpdate<typeof Trail, "id", "version">>>
update(trail, { name: "x" }) satisfies Effect.Effect<
  Trail,
  OptimisticLock.Stale | OptimisticLock.RowNotFound | Schema.SchemaError | SqlError.SqlError
>
update({ id: 1, version: 2 }, {})
// @expect-error-message: 'version' does not exist in type
update(trail, { version: 7 })
// @expect-error-message: 'nmae' does not exist in type
update(trail, { nmae: "x" })
// @expect-error-message: Type 'number' is not assignable to type 'string'
update(trail, { name: 7 })
// @expect-error-message: Property 'version' is missing
update({ id: 1 }, { name: "x" })

// Changeset

const patched = Changeset.patch(Trail.jsonUpdate, trail, {}, { transitions: { status: TrailStatus } })
patched satisfies Effect.Effect<
  Changeset.Changeset<Trail, { readonly name?: string; readonly status?: "draft" | "active" | "paused" }>,
  ValidationError.ValidationError
>
declare const changeset: Effect.Success<typeof patched>
update(changeset.data, changeset.changes)
Changeset.apply(changeset) satisfies Trail

// @expect-error-message: 'id' does not exist in type '{ readonly name: string; }'
Changeset.patch(Schema.Struct({ name: Schema.String }), { id: 1 }, {})
// @expect-error-message: 'lost' does not exist in type
Changeset.patch(Trail.jsonUpdate, trail, {}, { transitions: { lost: TrailStatus } })
// @expect-error-message: Types of property 'states' are incompatible
Changeset.patch(Trail.jsonUpdate, trail, {}, { transitions: { status: Transition.make({ open: [] }) } })
// @expect-error-message: Type 'number' is not assignable to type 'string'
Changeset.change(trail, { name: 7 })

declare const insert: Effect.Effect<Trail, "paused" | Schema.SchemaError | SqlError.SqlError>
insert.pipe(Changeset.constraints({ trails_name_key: { field: "name", message: "is taken" } })) satisfies Effect.Effect<
  Trail,
  "paused" | ValidationError.ValidationError
>
// @expect-error-message: Property 'message' is missing
Changeset.constraints({ trails_name_key: { field: "name" } })
