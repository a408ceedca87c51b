/**
 * What a handler failed with, as a text: whatever it is, however large it is, and whatever it does when it is looked at.
 */
import { Cause } from "effect"

/** How many failures of one attempt are told of, and how many causes of causes. */
const most = 10
const deepest = 20

/** Beyond so many characters, stacks are left out. */
const modest = 100_000

/** The text of a cause, of which `limit` characters are needed. Never fails. */
export const textOf = (cause: Cause.Cause<unknown>, limit: number): string => {
  const { reasons } = cause
  const told = reasons.slice(0, most).map((reason) => textOfReason(reason, limit))
  return reasons.length > most ? `${told.join("\n")}\n(and ${reasons.length - most} more)` : told.join("\n")
}

const textOfReason = (reason: Cause.Reason<unknown>, limit: number): string => {
  try {
    const error = reason._tag === "Fail" ? reason.error : reason._tag === "Die" ? reason.defect : undefined
    return isModest(error) ? Cause.pretty(Cause.fromReasons([reason])) : brief(error, limit)
  } catch {
    return "The handler failed with something that cannot be shown as a text"
  }
}

/** Whether it can be shown whole: making a text of millions of characters would hold all other jobs up. */
const isModest = (error: unknown): boolean => {
  let left = modest
  let one = error
  for (let depth = 0; depth < deepest; depth++) {
    if (typeof one === "string") return one.length <= left
    if (typeof one !== "object" || one === null) return true
    left -= textIn(one, "message").length + textIn(one, "stack").length
    if (left < 0) return false
    one = "cause" in one ? one.cause : undefined
  }
  return false
}

const brief = (error: unknown, limit: number): string =>
  typeof error === "object" && error !== null
    ? `${textIn(error, "name") || "Error"}: ${textIn(error, "message").slice(0, limit)}`
    : String(error).slice(0, limit)

const textIn = (error: object, key: string): string => {
  const value: unknown = Reflect.get(error, key)
  return typeof value === "string" ? value : ""
}
