/** Entities live in rows: what the mark changes, and what it leaves alone. */
import { Changeset, Domain, OptimisticLock } from "@coppice/domain"
import { GenServer } from "@coppice/supervision"
import { Effect, Schema } from "effect"
import { Model } from "effect/schema"
import { SqlModel } from "effect/sql"

class Trail extends Domain.Entity(
  Model.Class<Trail>("Trail")({
    id: Model.Field({ select: Schema.Int, update: Schema.Int, json: Schema.Int }),
    name: Schema.String,
    version: Model.GeneratedByDb(Schema.Int)
  })
) {
  get title() {
    return this.name.toUpperCase()
  }
}
class LongTrail extends Trail.extend<LongTrail>("LongTrail")({ length: Schema.Int }) {}

declare const trail: Trail
declare const longTrail: LongTrail

// A model with the mark is used like one without.
trail.title satisfies string
new Trail({ id: 1, name: "Ridge", version: 1 }) satisfies Trail
Schema.decodeUnknownEffect(Trail)({}) satisfies Effect.Effect<Trail, Schema.SchemaError>
const table = { tableName: "trails", spanPrefix: "Trails", idColumn: "id" } as const
SqlModel.makeRepository(Trail, table)
OptimisticLock.makeUpdate(Trail, { ...table, versionColumn: "version" })
Changeset.patch(Trail.jsonUpdate, trail, {})
// @expect-error-message: Type 'string' is not assignable to type 'number'
new Trail({ id: "1", name: "Ridge", version: 1 })

// No process holds one.
// @expect-error-message: a process must not hold domain entities: they live in the database
GenServer.Service<unknown>()("test/Trail", { init: () => Effect.succeed(trail) })
// @expect-error-message: a process must not hold domain entities
GenServer.Service<unknown>()("test/Trails", { init: () => Effect.succeed(new Map([["Ridge", trail]])) })
// @expect-error-message: a process must not hold domain entities
GenServer.Service<unknown>()("test/LongTrail", { init: () => Effect.succeed({ current: longTrail }) })
GenServer.Service<unknown>()("test/Names", { init: () => Effect.succeed({ ids: [trail.id] }) })
