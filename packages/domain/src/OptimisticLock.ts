/**
 * Optimistic locking on a version column: an update names the version it is based on, and is refused when the row has
 * moved on.
 *
 * Use it whenever a decision about a row is made outside of the statement that writes it: a form that was open for ten
 * minutes, or a service that reads, computes and writes. The version is a column like any other
 * (`version int not null default 1`), only ever counted up by the update itself.
 */
import { Effect, Equal, Option, Schema } from "effect"
import type { SqlClient, SqlError } from "effect/sql"
import * as GuardedUpdate from "./internal/guardedUpdate.ts"

/** The row changed after it was read. Nothing was written. */
export class Stale extends Schema.TaggedError<Stale>("@coppice/domain/Stale")("Stale", {
  table: Schema.String,
  id: Schema.String,
  expected: Schema.Int,
  actual: Schema.Int
}) {
  override get message(): string {
    return (
      `Row ${this.id} of ${this.table} has changed since it was read: expected version ${this.expected}, `
      + `found ${this.actual}. Read it again and decide whether the change still applies.`
    )
  }
}

export { RowNotFound } from "./internal/guardedUpdate.ts"

/**
 * Builds the versioned update of a model, beside the repository of `SqlModel.makeRepository` and with the same options.
 *
 * The function takes the row as it was read (or its id and the version that a client sent back) and the fields to
 * change. It counts the version up and returns the new row. `Stale` when the row has another version, `RowNotFound` when
 * there is none: decided in the one statement that writes, so of several concurrent updates of one version exactly one
 * succeeds. Without changes nothing is written, but the version is still compared. Fields of the update variant that
 * have a default, such as `Model.DateTimeUpdate`, are set to it. Under repeatable read or serializable isolation a
 * lost race is PostgreSQL's own serialization failure, a retryable `SqlError`.
 *
 * ```ts
 * import { OptimisticLock } from "@coppice/domain"
 * import { Effect, Schema } from "effect"
 * import { Model } from "effect/schema"
 *
 * class Trail extends Model.Class<Trail>("Trail")({
 *   id: Model.GeneratedByDb(Schema.Int),
 *   name: Schema.String,
 *   version: Model.GeneratedByDb(Schema.Int)
 * }) {}
 *
 * const rename = Effect.gen(function*() {
 *   const update = yield* OptimisticLock.makeUpdate(Trail, {
 *     tableName: "trails",
 *     spanPrefix: "Trails",
 *     idColumn: "id",
 *     versionColumn: "version"
 *   })
 *   return yield* update({ id: 1, version: 3 }, { name: "Ridge" }) // Trail { ..., version: 4 }, or Stale, or RowNotFound
 * })
 * ```
 */
export const makeUpdate = <
  M extends GuardedUpdate.Table,
  Id extends GuardedUpdate.FieldOf<M, unknown>,
  Version extends GuardedUpdate.FieldOf<M, number>
>(
  model: M,
  options: {
    readonly tableName: string
    readonly spanPrefix: string
    readonly idColumn: Id
    readonly versionColumn: Version
  }
): Effect.Effect<
  (
    current: Pick<M["Type"], Id | Version>,
    changes: GuardedUpdate.Changes<M, Id | Version>
  ) => Effect.Effect<
    M["Type"],
    Stale | GuardedUpdate.RowNotFound | Schema.SchemaError | SqlError.SqlError,
    GuardedUpdate.Services<M, Id | Version>
  >,
  never,
  SqlClient.SqlClient
> => {
  const { tableName, idColumn, versionColumn } = options
  return Effect.map(
    GuardedUpdate.make<M, Id | Version>(model, { tableName, idColumn, guardColumn: versionColumn, versionColumn }),
    (guarded) => (current, changes) => {
      const id = current[idColumn]
      // `versionColumn` only ranges over the fields that are numbers, which does not survive the lookup.
      const expected = current[versionColumn] as number
      const settle = (outcome: GuardedUpdate.Outcome<M["Type"]>) =>
        Effect.fromOption(
          outcome.row,
          // The guard column decodes to the type of `versionColumn`, which is a number.
          () => new Stale({ table: tableName, id: String(id), expected, actual: outcome.found as number })
        )
      const attempt =
        Object.keys(changes).length === 0
          ? Effect.map(guarded.read(id), ({ found, row }) => ({
              found,
              row: Equal.equals(found, expected) ? Option.some(row) : Option.none()
            }))
          : guarded.write({ id, accepted: [expected], becomes: Option.none(), changes })
      return Effect.flatMap(attempt, settle).pipe(
        Effect.withSpan(`${options.spanPrefix}.update`, { attributes: { id } }, { captureStackTrace: false })
      )
    }
  )
}
