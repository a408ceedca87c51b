/**
 * The one error for input that a person can correct, field by field.
 *
 * A schema that does not match, a unique constraint that another transaction won, a status that may not be reached from
 * here: to whoever filled in the form they are the same thing, so they are the same class and have the same JSON form.
 */
import { Schema } from "effect"

/** The field that errors about the input as a whole are filed under, such as "must be an object". */
export const wholeInput = "$"

/** At most so many messages are kept; one more, under `wholeInput`, says how many were left out. */
export const maxMessages = 100

/**
 * Fields and what is wrong with each of them.
 *
 * Encodes to `{ "_tag": "ValidationError", "fields": { "name": ["is required"], "tags[0].label": ["..."] } }`; `fields`
 * is made to be the `fields` member of a problem details object. Messages continue the name of the field. Nested
 * fields are written `address.city` and `items[0].url`, keys that are not plain names `labels["a b"]`.
 *
 * ```ts
 * import { ValidationError } from "@coppice/domain"
 *
 * const error = new ValidationError.ValidationError({ fields: { url: ["could not be reached"] } })
 * error.message // => "Invalid input: url could not be reached. Correct it and send it again."
 * ```
 */
export class ValidationError extends Schema.TaggedError<ValidationError>("@coppice/domain/ValidationError")(
  "ValidationError",
  { fields: Schema.Record(Schema.String, Schema.NonEmptyArray(Schema.String)) }
) {
  override get message(): string {
    const sentences = Object.entries(this.fields).flatMap(([field, messages]) =>
      messages.map((message) => `${field === wholeInput ? "it" : field} ${message}`)
    )
    return `Invalid input: ${sentences.join("; ")}. Correct it and send it again.`
  }
}

/** What is wrong in one place of the input; an empty path is the input as a whole. */
export interface FieldMessage {
  readonly path: ReadonlyArray<PropertyKey>
  readonly message: string
}

/** The error for one or more messages; each is kept once per field, and no more than `maxMessages` in all. */
export const make = (messages: ReadonlyArray<FieldMessage>): ValidationError =>
  fromEntries(messages.map(({ path, message }) => [fieldName(path), message]))

/** The error of one field, or of the field at a path such as `["items", 0, "url"]`. */
export const forField = (field: string | ReadonlyArray<PropertyKey>, message: string): ValidationError =>
  make([{ path: typeof field === "string" ? [field] : field, message }])

/** The name under which errors at a path are filed: `["items", 0, "url"]` is `items[0].url`, `[]` is `wholeInput`. */
export const fieldName = (path: ReadonlyArray<PropertyKey>): string => {
  if (path.length === 0) return wholeInput
  let name = ""
  for (const segment of path) {
    const key = String(segment)
    if (/^\d+$/.test(key)) name += `[${key}]`
    else if (/^[A-Za-z_][\w-]*$/.test(key)) name += name === "" ? key : `.${key}`
    else name += `[${JSON.stringify(key)}]`
  }
  return name
}

/** Several errors as one: every field of each, and each message once. */
export const combine = (errors: readonly [ValidationError, ...Array<ValidationError>]): ValidationError =>
  fromEntries(
    errors.flatMap((error) =>
      Object.entries(error.fields).flatMap(([field, messages]) => messages.map((message) => [field, message] as const))
    )
  )

const fromEntries = (entries: ReadonlyArray<readonly [field: string, message: string]>): ValidationError => {
  const fields = new Map<string, [string, ...Array<string>]>()
  const add = (field: string, message: string): void => {
    const messages = fields.get(field)
    if (messages === undefined) fields.set(field, [message])
    else if (!messages.includes(message)) messages.push(message)
  }
  for (const [field, message] of entries.slice(0, maxMessages)) add(field, message)
  if (entries.length > maxMessages) add(wholeInput, `has ${entries.length - maxMessages} more errors`)
  // `Object.fromEntries` makes "__proto__" an ordinary key; an assignment would not.
  return new ValidationError({ fields: Object.fromEntries(fields) })
}
