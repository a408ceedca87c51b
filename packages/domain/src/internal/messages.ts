/**
 * Turns a schema issue into the messages that a person reads beside a form field.
 *
 * Effect's own formatter speaks to developers (`Missing key`, `Expected "a" | "b"`). Here a message continues the name
 * of the field ("is required", `must be one of "a", "b"`), and the rejected input is never repeated. A `message`
 * annotation on the schema wins, word for word.
 */
import type { SchemaAST, SchemaIssue } from "effect"
import type { FieldMessage } from "../ValidationError.ts"

/** One entry per failed place and reason, in the order in which the schema checks them. */
export const fromIssue = (
  issue: SchemaIssue.Issue,
  path: ReadonlyArray<PropertyKey> = [],
  override?: string
): ReadonlyArray<FieldMessage> => {
  switch (issue._tag) {
    case "Pointer":
      return fromIssue(issue.issue, [...path, ...issue.path], override)
    case "Encoding":
      return fromIssue(issue.issue, path, override)
    case "Filter":
      return fromIssue(issue.issue, path, override ?? filterMessage(issue))
    case "Composite":
      return issue.issues.flatMap((inner) => fromIssue(inner, path, override))
    case "AnyOf":
      return issue.issues.length > 0
        ? issue.issues.flatMap((inner) => fromIssue(inner, path, override))
        : [{ path, message: override ?? typeMessage(issue.ast) }]
    default:
      return [{ path, message: override ?? leafMessage(issue) }]
  }
}

const leafMessage = (issue: SchemaIssue.Leaf): string => {
  switch (issue._tag) {
    case "MissingKey":
      return annotation(issue.annotations, "messageMissingKey") ?? "is required"
    case "UnexpectedKey":
      return annotation(issue.ast.annotations, "messageUnexpectedKey") ?? "is not a known field"
    case "InvalidType":
      return typeMessage(issue.ast)
    case "InvalidValue":
      return annotation(issue.annotations, "message") ?? expectation(annotation(issue.annotations, "expected"))
    case "Forbidden":
      return annotation(issue.annotations, "message") ?? "is not allowed"
    case "OneOf":
      return annotation(issue.ast.annotations, "message") ?? "matches more than one of the allowed forms"
  }
}

// A check that returned an issue of its own has said more than its annotations can.
const filterMessage = (issue: SchemaIssue.Filter): string | undefined => {
  const own = annotation(issue.filter.annotations, "message")
  if (own !== undefined || issue.issue._tag !== "InvalidValue" || issue.issue.annotations !== undefined) return own
  return expectation(annotation(issue.filter.annotations, "expected"))
}

const typeMessage = (ast: SchemaAST.AST): string => {
  const own = annotation(ast.annotations, "message")
  if (own !== undefined) return own
  const kinds = kindsOf(ast)
  if (kinds.length === 0) return "is invalid"
  if (new Set(kinds).size < kinds.length) return "does not match any of the allowed forms"
  const choice = ast._tag === "Enum" || (ast._tag === "Union" && ast.types.every((type) => type._tag === "Literal"))
  return choice && kinds.length > 1 ? `must be one of ${kinds.join(", ")}` : `must be ${kinds.join(" or ")}`
}

const kindsOf = (ast: SchemaAST.AST): ReadonlyArray<string> => {
  const expected = annotation(ast.annotations, "expected")
  if (expected !== undefined) return [withArticle(expected)]
  switch (ast._tag) {
    case "String":
    case "TemplateLiteral":
      return ["a string"]
    case "Number":
      return ["a number"]
    case "BigInt":
      return ["an integer"]
    case "Boolean":
      return ["true or false"]
    case "Null":
      return ["null"]
    case "Literal":
      return [typeof ast.literal === "string" ? JSON.stringify(ast.literal) : String(ast.literal)]
    case "Enum":
      return ast.enums.map(([, value]) => JSON.stringify(value))
    case "Arrays":
      return ["an array"]
    case "Objects":
    case "ObjectKeyword":
      return ["an object"]
    case "Union":
      return ast.types.flatMap(kindsOf)
    default:
      return []
  }
}

// Checks and codecs describe what they expect with a noun phrase: "a value greater than 3", "a valid URL string".
const expectation = (expected: string | undefined): string => {
  if (expected === undefined) return "is invalid"
  if (expected === "a value with a length of at least 1") return "must not be empty"
  if (expected.startsWith("a string matching ")) return "does not have the required format"
  const having = /^a (?:value|string) with (.*)$/s.exec(expected)?.[1]
  if (having !== undefined) return `must have ${having}`
  const being = /^a value (?:that is )?(.*)$/s.exec(expected)?.[1]
  return `must be ${being ?? withArticle(expected)}`
}

const withArticle = (expected: string): string => {
  const phrase = expected.replace(/ that will be decoded as .*$/s, "")
  return /^(?:a|an|one|no|the) /.test(phrase) ? phrase : `a valid ${phrase}`
}

const annotation = (annotations: { readonly [key: string]: unknown } | undefined, key: string): string | undefined => {
  const value = annotations?.[key]
  return typeof value === "string" ? value : undefined
}
