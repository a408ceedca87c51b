/**
 * Untrusted input on its way into a row: cast by a Schema, compared with the row as it is, and refused field by field.
 *
 * Validation is what the Schema says. A changeset adds what a Schema alone does not do: every error at once, by field,
 * in words for a person; text that PostgreSQL cannot store, found before it is asked; which fields a patch really
 * changes; whether a status may change that way; and constraint violations as errors of the field they concern.
 */
import { Cause, Effect, Equal, Predicate, Record, Schema } from "effect"
import { SqlError } from "effect/sql"
import { violatedConstraint } from "./internal/constraints.ts"
import { isTooDeep, maxDepth, unstorableText } from "./internal/input.ts"
import { fromIssue } from "./internal/messages.ts"
import * as Transition from "./Transition.ts"
import * as ValidationError from "./ValidationError.ts"

/** A row as it was read, and the fields that shall be different. */
export interface Changeset<Data, Changes> {
  readonly data: Data
  /** Only fields whose value differs from the one in `data`. */
  readonly changes: Changes
}

/** The fields of a struct, each of which may be left out. */
export type Patch<S extends Struct> = { readonly [Field in keyof S["Type"]]?: S["Type"][Field] }

/** For some fields of a struct, the transitions that they are bound to. */
export type Transitions<S extends Struct> = {
  readonly [Field in keyof S["Type"]]?: S["Type"][Field] extends string
    ? Transition.Transition<S["Type"][Field]>
    : never
}

/** Which field the violation of a constraint is an error of, and what to say there. */
export interface ConstraintMessage {
  readonly field: string | ReadonlyArray<PropertyKey>
  readonly message: string
}

type Struct = Schema.Struct<Schema.Struct.Fields>

// What a repository can fail with although nobody who filled in a form can do anything about it.
type Unexpected = SqlError.SqlError | Schema.SchemaError

/**
 * Casts input by a schema: a struct, or a variant of a model such as `Trail.jsonCreate`.
 *
 * Fails with a `ValidationError` that has every error of every field. Keys that the schema does not have are left out:
 * the schema is the list of what may be set. Strings with a NUL character or with half of a surrogate pair are errors
 * of their field, and so is input that is nested deeper than 128 levels.
 *
 * ```ts
 * import { Changeset } from "@coppice/domain"
 * import { Effect, Schema } from "effect"
 *
 * const NewTrail = Schema.Struct({ name: Schema.String.check(Schema.isMinLength(3)), url: Schema.URLFromString })
 *
 * const error = Effect.runSync(Effect.flip(Changeset.cast(NewTrail, { name: "x", admin: true })))
 * error.fields // => { name: ["must have a length of at least 3"], url: ["is required"] }
 * ```
 */
export const cast = <S extends Schema.Constraint>(
  schema: S,
  input: unknown
): Effect.Effect<S["Type"], ValidationError.ValidationError, S["DecodingServices"]> =>
  Effect.suspend(() => {
    const isField = fieldsOf(schema)
    if (isTooDeep(input, isField)) {
      return Effect.fail(ValidationError.forField([], `is nested deeper than ${maxDepth} levels`))
    }
    return Schema.decodeUnknownEffect(schema, { errors: "all" })(input).pipe(
      // Text is looked at in the input too, so that its errors come with the others rather than after them.
      Effect.mapError(({ issue }) => ValidationError.make([...fromIssue(issue), ...unstorableText(input, isField)])),
      Effect.tap((value) => fail(unstorableText(value)))
    )
  })

/**
 * Casts input as a patch of an existing row: fields that the input leaves out stay as they are, the others are cast, and
 * those that turn out equal to the row's are no changes.
 *
 * Checks of the struct as a whole (`start` before `end`) see the row as it would become. A field named in `transitions`
 * may only change along declared steps. All of this is true of the row as it was read: write the changes with
 * `OptimisticLock.makeUpdate`, which refuses when it has changed since.
 *
 * ```ts
 * import { Changeset } from "@coppice/domain"
 * import { Effect, Schema } from "effect"
 *
 * const EditTrail = Schema.Struct({ name: Schema.String, note: Schema.String })
 * const trail = { id: 1, name: "Ridge", note: "", version: 3 }
 *
 * const changeset = Effect.runSync(Changeset.patch(EditTrail, trail, { name: "Ridge", note: "steep" }))
 * changeset.changes // => { note: "steep" }
 * ```
 */
export const patch = <S extends Struct, Data extends S["Type"]>(
  schema: S,
  data: Data,
  input: unknown,
  options: { readonly transitions?: Transitions<S> } = {}
): Effect.Effect<Changeset<Data, Patch<S>>, ValidationError.ValidationError, S["DecodingServices"]> =>
  Effect.gen(function* () {
    const values = yield* cast(optionalFields(schema), input)
    // A field that decodes from nothing (an Option, a default) is given only if the input has it.
    const given = Object.entries(values).filter(([field]) => Object.hasOwn(Object(input), field))
    const changes = differing(data, given)
    yield* fail([
      ...transitionErrors<S>(data, changes, options.transitions ?? {}),
      ...(yield* checkErrors(schema, { ...data, ...changes }))
    ])
    // The keys are fields of the struct and each value was decoded by its field.
    return { data, changes: changes as Patch<S> }
  })

/** A changeset of values that need no cast because they come from code. Those equal to the row's are no changes. */
export const change = <Data extends object, Changes extends Partial<Data>>(
  data: Data,
  changes: Changes
): Changeset<Data, Partial<Changes>> => ({
  data,
  // Some of the entries of `changes`, unchanged.
  changes: differing(data, Object.entries(changes)) as Partial<Changes>
})

/** Whether the changeset changes nothing. */
export const isUnchanged = (changeset: Changeset<object, object>): boolean =>
  Object.keys(changeset.changes).length === 0

/** The row as it would become. It keeps its class, and is not what the database returns: no defaults, no triggers. */
export const apply = <Data extends object, Changes extends Partial<Data>>(changeset: Changeset<Data, Changes>): Data =>
  Object.assign(Object.create(Object.getPrototypeOf(changeset.data)), changeset.data, changeset.changes)

/**
 * Turns violations of the named constraints into field errors, and every other `SqlError` into a defect.
 *
 * Works for unique, foreign key, check and exclusion constraints and for unique indexes, by the name that the database
 * reports. PostgreSQL names none when it refuses a null: write `<table>_<column>_not_null`. A `SchemaError` becomes a
 * defect as well: behind a cast it means that code and table disagree. Retry a serialization failure inside of this,
 * and put it around `sql.withTransaction`, so that deferred constraints, which are checked on commit, are seen too.
 *
 * ```ts
 * import { Changeset } from "@coppice/domain"
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 *
 * const constraints = Changeset.constraints({
 *   trails_owner_name_key: { field: "name", message: "is already taken" },
 *   trails_owner_fkey: { field: "owner", message: "does not exist" }
 * })
 *
 * const create = Effect.fn("Trails.create")(function*(owner: number, name: string) {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`insert into trails (owner, name) values (${owner}, ${name})`
 * }, constraints) // fails with ValidationError only
 * ```
 */
export const constraints = (messages: {
  readonly [constraint: string]: ConstraintMessage
}): (<A, E, R>(
  self: Effect.Effect<A, E, R>
) => Effect.Effect<A, Exclude<E, Unexpected> | ValidationError.ValidationError, R>) => {
  const known = new Map(Object.entries(messages))
  return (self) => Effect.catchCause(self, (cause) => Effect.failCause(settle(cause, known)))
}

const fail = (
  messages: ReadonlyArray<ValidationError.FieldMessage>
): Effect.Effect<void, ValidationError.ValidationError> =>
  messages.length === 0 ? Effect.void : Effect.fail(ValidationError.make(messages))

const fieldsOf = (schema: Schema.Constraint): ((key: string) => boolean) => {
  const fields = "fields" in schema ? schema.fields : undefined
  return Predicate.isObject(fields) ? (key) => Object.hasOwn(fields, key) : () => true
}

type Values = Readonly<Record<string, unknown>>

// A struct made from the fields of `S` needs the services of `S`; the lookup by name loses that.
const optionalFields = <S extends Struct>(schema: S) =>
  Schema.Struct(Record.map(schema.fields, Schema.optionalKey)) as Schema.Codec<
    Values,
    unknown,
    S["DecodingServices"],
    unknown
  >

const differing = (data: object, entries: ReadonlyArray<readonly [field: string, value: unknown]>): Values =>
  Object.fromEntries(entries.filter(([field, value]) => !Equal.equals(valueOf(data, field), value)))

const valueOf = (data: object, field: string): unknown => (Predicate.hasProperty(data, field) ? data[field] : undefined)

const transitionErrors = <S extends Struct>(
  data: object,
  changes: Values,
  transitions: Transitions<S>
): ReadonlyArray<ValidationError.FieldMessage> =>
  // By name there is no telling which states a field has: `patch` has required that they are those of its transition.
  Object.entries(transitions as Readonly<Record<string, Transition.Transition<string>>>).flatMap(
    ([field, transition]) => {
      if (!Object.hasOwn(changes, field)) return []
      const [from, to] = [String(valueOf(data, field)), String(changes[field])]
      return Transition.allows(transition, from, to) ? [] : [{ path: [field], message: Transition.refusal(from, to) }]
    }
  )

// The struct's own checks, without its fields: those that did not change are not looked at again.
const checkErrors = (schema: Struct, value: Values): Effect.Effect<ReadonlyArray<ValidationError.FieldMessage>> => {
  const checks = schema.ast.checks
  if (checks === undefined) return Effect.succeed([])
  return Schema.decodeEffect(Schema.Unknown.check(...checks), { errors: "all" })(value).pipe(
    Effect.match({ onSuccess: () => [], onFailure: ({ issue }) => fromIssue(issue) })
  )
}

// Every reason of the cause is kept, with the annotations of the runtime.
const settle = <E>(
  cause: Cause.Cause<E>,
  known: ReadonlyMap<string, ConstraintMessage>
): Cause.Cause<Exclude<E, Unexpected> | ValidationError.ValidationError> =>
  Cause.fromReasons(
    cause.reasons.map((reason): Cause.Reason<Exclude<E, Unexpected> | ValidationError.ValidationError> => {
      if (!Cause.isFailReason(reason)) return reason
      const error: unknown = reason.error
      const constraint = SqlError.isSqlError(error) ? violatedConstraint(error) : undefined
      const violated = constraint === undefined ? undefined : known.get(constraint)
      const annotations = Cause.reasonAnnotations(reason)
      if (violated !== undefined) {
        return Cause.makeFailReason(ValidationError.forField(violated.field, violated.message)).annotate(annotations)
      }
      return SqlError.isSqlError(error) || Schema.isSchemaError(error)
        ? Cause.makeDieReason(error).annotate(annotations)
        : // What is neither is not among the excluded errors.
          (reason as Cause.Fail<Exclude<E, Unexpected>>)
    })
  )
