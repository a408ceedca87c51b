/** Finds the constraint that a statement violated, by the name under which the database reports it. */
import { Predicate } from "effect"
import type { SqlError } from "effect/sql"

/**
 * The name of the violated constraint, or undefined when the error is something else.
 *
 * Only unique violations carry the name in Effect's error; for the others it is in the server's report, which is the
 * cause. PostgreSQL names no constraint when it reports a null, so that one gets the name that PostgreSQL 18 gives to
 * such a constraint: `<table>_<column>_not_null`.
 */
export const violatedConstraint = (error: SqlError.SqlError): string | undefined => {
  const { reason } = error
  if (reason._tag !== "UniqueViolation" && reason._tag !== "ConstraintError") return undefined
  const reported = text(reason.cause, "constraint")
  if (reported !== undefined) return reported
  if (reason._tag === "UniqueViolation") return reason.constraint
  const table = text(reason.cause, "table")
  const column = text(reason.cause, "column")
  return table === undefined || column === undefined ? undefined : `${table}_${column}_not_null`
}

const text = (cause: unknown, key: string): string | undefined => {
  const value = Predicate.hasProperty(cause, key) ? cause[key] : undefined
  return typeof value === "string" && value !== "" ? value : undefined
}
