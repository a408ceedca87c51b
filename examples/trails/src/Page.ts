/** A page of the web, captured into a trail. A trail holds an address only once. */
import { Domain } from "@coppice/domain"
import { Effect, Schema, SchemaGetter, SchemaIssue } from "effect"
import { Model } from "effect/schema"
import { TrailId } from "./Trail.ts"

export const PageId = Schema.Int.pipe(Schema.brand("PageId"))
export type PageId = typeof PageId.Type

/**
 * An address as the URL standard writes it (host in lower case, no default port), without the fragment: two spellings
 * of one page are one page. Only `http` and `https`, so it may stand in a link.
 */
const PageUrl = Schema.String.pipe(
  Schema.decode({
    decode: SchemaGetter.transformEffect((text: string) => {
      const url = normalize(text)
      return url === undefined
        ? Effect.fail(new SchemaIssue.InvalidValue({ message: "must be an http or https address" }))
        : Effect.succeed(url)
    }),
    encode: SchemaGetter.passthrough()
  })
).check(Schema.isMaxLength(2048, { message: "must be no longer than 2048 characters" }))

export class Page extends Domain.Entity(
  Model.Class<Page>("trails/Page")({
    id: Model.GeneratedByDb(PageId),
    trailId: Model.FieldExcept(["jsonCreate"])(TrailId),
    url: Schema.String,
    title: Schema.NullOr(Schema.String),
    capturedAt: Model.DateTimeInsertFromDate
  })
) {}

/** The input of a capture. A title that is left out, or blank, is none. */
export const CapturePage = Schema.Struct({
  url: PageUrl,
  title: Schema.optionalKey(
    Schema.Trim.check(Schema.isMaxLength(300, { message: "must be no longer than 300 characters" }))
  )
})

const normalize = (text: string): string | undefined => {
  const url = URL.parse(text.trim())
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) return undefined
  url.hash = ""
  return url.href
}
