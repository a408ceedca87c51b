/**
 * One `update` of one row that happens only if a column of the row, as it is now, holds one of the accepted values, and
 * that says what the column held when it did not.
 *
 * The statement first locks the row, so what it finds is what was committed last, and writes only then. Nobody comes in
 * between the look and the write, and a refusal reports the value on which it was based.
 */
import { Effect, Option, Schema } from "effect"
import type { Model } from "effect/schema"
import { SqlClient, type SqlError } from "effect/sql"

/** A model whose update variant is a struct, as that of every `Model.Class` is. */
export type Table = Model.Any & { readonly update: Schema.Struct<Schema.Struct.Fields> }

/** Some of the fields of the update variant. A field with a default of its own, such as `updatedAt`, is set anyway. */
export type Changes<M extends Table, Except extends PropertyKey> = {
  readonly [Field in Exclude<keyof M["update"]["~type.make.in"], Except>]?: M["update"]["~type.make.in"][Field]
}

/** Fields of the row whose values are of type `Value`. */
export type FieldOf<M extends Table, Value> = {
  [Field in keyof M["Type"] & keyof M["fields"] & string]: M["Type"][Field] extends Value ? Field : never
}[keyof M["Type"] & keyof M["fields"] & string]

export type Services<M extends Table, Fields extends keyof M["fields"]> =
  | M["DecodingServices"]
  | M["update"]["EncodingServices"]
  | M["fields"][Fields]["EncodingServices"]
  | M["fields"][Fields]["DecodingServices"]

/** No row has this id. */
export class RowNotFound extends Schema.TaggedError<RowNotFound>("@coppice/domain/RowNotFound")("RowNotFound", {
  table: Schema.String,
  id: Schema.String
}) {
  override get message(): string {
    return `There is no row ${this.id} in ${this.table}: it was never there or it has been deleted. Look it up again.`
  }
}

export interface Options {
  readonly tableName: string
  readonly idColumn: string
  readonly guardColumn: string
  /** Counted up by every write. */
  readonly versionColumn: string | undefined
}

interface Request {
  readonly id: unknown
  /** What the guard column may hold. When empty, the write is refused whatever it holds. */
  readonly accepted: ReadonlyArray<unknown>
  /** What the guard column shall hold afterwards. */
  readonly becomes: Option.Option<unknown>
  readonly changes: object
}

export interface Outcome<Row> {
  /** What the guard column held before the write, or when it was refused. */
  readonly found: unknown
  /** None when the guard refused. */
  readonly row: Option.Option<Row>
}

interface GuardedUpdate<M extends Table, Fields extends keyof M["fields"]> {
  /** Writes if the guard accepts. */
  readonly write: (request: Request) => Result<Outcome<M["Type"]>, M, Fields>
  /** Reads the row with its guard column, writes and locks nothing. */
  readonly read: (id: unknown) => Result<{ readonly found: unknown; readonly row: M["Type"] }, M, Fields>
}

type Result<A, M extends Table, Fields extends keyof M["fields"]> = Effect.Effect<
  A,
  RowNotFound | Schema.SchemaError | SqlError.SqlError,
  Services<M, Fields>
>

export const make = <M extends Table, Fields extends keyof M["fields"]>(
  model: M,
  options: Options
): Effect.Effect<GuardedUpdate<M, Fields>, never, SqlClient.SqlClient> =>
  Effect.map(SqlClient.SqlClient, (sql) => {
    const { idColumn, guardColumn, versionColumn } = options
    const idField = field(model, idColumn)
    const guardField = field(model, guardColumn)
    const encodeId = Schema.encodeUnknownEffect(idField)
    const encodeGuard = Schema.encodeUnknownEffect(guardField)
    const decodeGuard = Schema.decodeUnknownEffect(guardField)
    const decodeRow = Schema.decodeUnknownEffect(model)
    const encodeChanges = changesEncoder(model, [idColumn, guardColumn, versionColumn])

    const table = sql(options.tableName)
    const notFound = (id: unknown) => new RowNotFound({ table: options.tableName, id: String(id) })

    const read = Effect.fnUntraced(function* (id: unknown) {
      const [row] = yield* sql<Readonly<Record<string, unknown>>>`
        select * from ${table} where ${sql(idColumn)} = ${yield* encodeId(id)}`
      if (row === undefined) return yield* notFound(id)
      return { found: yield* decodeGuard(row[guardColumn]), row: yield* decodeRow(row) }
    })

    const write = Effect.fnUntraced(function* (request: Request) {
      const id = yield* encodeId(request.id)
      const accepted = yield* Effect.forEach(request.accepted, (value) => encodeGuard(value))
      const columns: Record<string, unknown> = yield* encodeChanges(request.changes)
      if (Option.isSome(request.becomes)) columns[guardColumn] = yield* encodeGuard(request.becomes.value)

      const assignments = [
        ...(Object.keys(columns).length === 0 ? [] : [sql`${sql.update(columns)}`]),
        ...(versionColumn === undefined ? [] : [sql`${sql(versionColumn)} = ${sql(`target.${versionColumn}`)} + 1`])
      ]
      const guard = accepted.length === 0 ? sql.literal("false") : sql`found.guardfound in ${sql.in(accepted)}`
      // The added columns are one lower-case word each: a client that renames columns leaves them as they are.
      const [row] = yield* sql<Readonly<Record<string, unknown>>>`
        with found as materialized (
          select ${sql(guardColumn)} as guardfound from ${table} where ${sql(idColumn)} = ${id} for no key update
        ), written as (
          update ${table} as target set ${sql.csv(assignments)} from found
          where ${sql(`target.${idColumn}`)} = ${id} and ${guard}
          returning target.*, true as rowwritten
        )
        select found.guardfound, written.* from found left join written on true`
      if (row === undefined) return yield* notFound(request.id)
      const found = yield* decodeGuard(row["guardfound"])
      return { found, row: row["rowwritten"] === true ? Option.some(yield* decodeRow(row)) : Option.none() }
    })

    // The schemas were looked up by name, which loses what services they need; the names are among `Fields`.
    return { read, write } as GuardedUpdate<M, Fields>
  })

const field = (model: Table, name: string): Schema.Constraint => {
  const schema = model.fields[name]
  if (schema === undefined) throw new Error(`The model has no field "${name}". Name a column that it declares.`)
  return schema
}

// Every field may be left out, except that those with a constructor default then take it. A field that is not among
// them is an error rather than a write that silently does not happen.
const changesEncoder = (model: Table, except: ReadonlyArray<string | undefined>) => {
  const fields = Object.entries(model.update.fields).filter(([name]) => !except.includes(name))
  const partial = Schema.Struct(
    Object.fromEntries(
      fields.map(([name, schema]) => [
        name,
        schema.ast.context?.constructorDefault === undefined ? Schema.optionalKey(schema) : schema
      ])
    )
  )
  const encode = Schema.encodeUnknownEffect(partial, { onExcessProperty: "error" })
  return (changes: object) =>
    partial.makeEffect({ ...changes }, { parseOptions: { onExcessProperty: "error" } }).pipe(
      Effect.mapError((issue) => new Schema.SchemaError(issue)),
      Effect.flatMap((complete) => encode(complete))
    )
}
