/**
 * Status transitions, declared once: which state may follow which.
 *
 * The declaration is the schema of the column, the check before a decision, and the guard of the write. The guard is
 * part of the `update` statement itself, so two requests that both saw an active trail cannot both pause it.
 */
import { Effect, Option, Schema } from "effect"
import type { SqlClient, SqlError } from "effect/sql"
import * as GuardedUpdate from "./internal/guardedUpdate.ts"
import { forField, type ValidationError } from "./ValidationError.ts"

/** A declared set of states and of the steps between them. */
export interface Transition<State extends string> {
  readonly states: ReadonlyArray<State>
  /** The schema of the status field: any declared state. */
  readonly schema: Schema.Literals<ReadonlyArray<State>>
  /** For each state, those that may follow it. */
  readonly steps: ReadonlyMap<string, ReadonlyArray<State>>
}

/** The step is not declared, or the row was no longer in a state from which it may be taken. Nothing was written. */
export class InvalidTransition extends Schema.TaggedError<InvalidTransition>("@coppice/domain/InvalidTransition")(
  "InvalidTransition",
  { from: Schema.String, to: Schema.String, allowed: Schema.Array(Schema.String) }
) {
  override get message(): string {
    const advice = this.allowed.length === 0 ? `"${this.from}" is final.` : `It may go to: ${quoted(this.allowed)}.`
    return `A status ${refusal(this.from, this.to)}. ${advice}`
  }

  /** The same as an error of the status field, to be shown together with those of other fields. */
  toValidationError(field: string): ValidationError {
    return forField(field, refusal(this.from, this.to))
  }
}

export { RowNotFound } from "./internal/guardedUpdate.ts"

/**
 * Declares the states and, for each, those that may follow it. A target that is not declared itself does not compile. A
 * state follows itself only if it says so.
 *
 * ```ts
 * import { Transition } from "@coppice/domain"
 *
 * const TrailStatus = Transition.make({
 *   draft: ["active"],
 *   active: ["paused", "archived"],
 *   paused: ["active", "archived"],
 *   archived: []
 * })
 * Transition.allows(TrailStatus, "draft", "paused") // => false
 * ```
 */
export const make = <const State extends string>(table: {
  readonly [From in State]: ReadonlyArray<NoInfer<State>>
}): Transition<State> => {
  // The keys of the table are `State`; `Object.keys` only knows that they are strings.
  const states = Object.keys(table) as Array<State>
  return {
    states,
    schema: Schema.Literals<ReadonlyArray<State>>(states),
    steps: new Map(states.map((state) => [state, [...new Set(table[state])]]))
  }
}

/** The states that may follow a state. None when it is final. */
export const next = <State extends string>(transition: Transition<State>, from: NoInfer<State>): ReadonlyArray<State> =>
  transition.steps.get(from) ?? []

/** The states that a state may follow. */
export const previous = <State extends string>(
  transition: Transition<State>,
  to: NoInfer<State>
): ReadonlyArray<State> => transition.states.filter((from) => allows(transition, from, to))

/** Whether the step is declared. */
export const allows = <State extends string>(
  transition: Transition<State>,
  from: NoInfer<State>,
  to: NoInfer<State>
): boolean => next(transition, from).includes(to)

/** The message of a status field that may not change in this way. */
export const refusal = (from: string, to: string): string => `cannot go from "${from}" to "${to}"`

/** Fails with `InvalidTransition` unless the step is declared. To guard a write, use `makeUpdate`. */
export const check = <State extends string>(
  transition: Transition<State>,
  from: NoInfer<State>,
  to: NoInfer<State>
): Effect.Effect<void, InvalidTransition> =>
  allows(transition, from, to) ? Effect.void : Effect.fail(refuse(transition, from, to))

/**
 * Builds the guarded transition of a model, beside the repository of `SqlModel.makeRepository` and with the same
 * options.
 *
 * The function moves the row with this id to a state, if the state in which the row is now allows it, writes other
 * fields with it, and returns the new row. `InvalidTransition` names the state that was found, `RowNotFound` says that
 * there is no row: both decided in the one statement that writes. With `versionColumn` the step also counts the version
 * up, so that `OptimisticLock` updates based on the row as it was become `Stale`.
 *
 * ```ts
 * import { Transition } from "@coppice/domain"
 * import { Effect, Schema } from "effect"
 * import { Model } from "effect/schema"
 *
 * const TrailStatus = Transition.make({ active: ["paused"], paused: ["active"] })
 * class Trail extends Model.Class<Trail>("Trail")({
 *   id: Model.GeneratedByDb(Schema.Int),
 *   status: Model.GeneratedByDb(TrailStatus.schema)
 * }) {}
 *
 * const pause = Effect.gen(function*() {
 *   const transition = yield* Transition.makeUpdate(TrailStatus, Trail, {
 *     tableName: "trails",
 *     spanPrefix: "Trails",
 *     idColumn: "id",
 *     statusColumn: "status"
 *   })
 *   return yield* transition(1, "paused") // Trail { status: "paused" }, or InvalidTransition, or RowNotFound
 * })
 * ```
 */
export const makeUpdate = <
  State extends string,
  M extends GuardedUpdate.Table,
  Id extends GuardedUpdate.FieldOf<M, unknown>,
  Status extends GuardedUpdate.FieldOf<M, State>,
  Version extends GuardedUpdate.FieldOf<M, number> = never
>(
  transition: Transition<State>,
  model: M,
  options: {
    readonly tableName: string
    readonly spanPrefix: string
    readonly idColumn: Id
    readonly statusColumn: Status
    readonly versionColumn?: Version
  }
): Effect.Effect<
  (
    id: M["Type"][Id],
    to: State,
    changes?: GuardedUpdate.Changes<M, Id | Status | Version>
  ) => Effect.Effect<
    M["Type"],
    InvalidTransition | GuardedUpdate.RowNotFound | Schema.SchemaError | SqlError.SqlError,
    GuardedUpdate.Services<M, Id | Status>
  >,
  never,
  SqlClient.SqlClient
> => {
  const { tableName, idColumn, statusColumn, versionColumn } = options
  return Effect.map(
    GuardedUpdate.make<M, Id | Status>(model, { tableName, idColumn, guardColumn: statusColumn, versionColumn }),
    (guarded) =>
      (id, to, changes = {}) =>
        guarded.write({ id, accepted: previous(transition, to), becomes: Option.some(to), changes }).pipe(
          Effect.flatMap(({ found, row }) =>
            // The guard column decodes to the type of `statusColumn`, which is a state.
            Effect.fromOption(row, () => refuse(transition, found as State, to))
          ),
          Effect.withSpan(`${options.spanPrefix}.transition`, { attributes: { id, to } }, { captureStackTrace: false })
        )
  )
}

const refuse = <State extends string>(
  transition: Transition<State>,
  from: NoInfer<State>,
  to: NoInfer<State>
): InvalidTransition => new InvalidTransition({ from, to, allowed: next(transition, from) })

const quoted = (states: ReadonlyArray<string>): string => states.map((state) => `"${state}"`).join(", ")
