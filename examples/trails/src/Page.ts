/** A page of the web, captured into a trail. A trail holds an address only once. */
import { Domain } from "@coppice/domain"
import { Effect, Schema, SchemaGetter, SchemaIssue } from "effect"
import { Model } from "effect/schema"
import { TrailId } from "./Trail.ts"

/** A number that fits the column. */
export const PageId = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2_147_483_647 })).pipe(
  Schema.brand("PageId")
)
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

/** Whether the page has been asked what it says of itself: not yet, with success, or for the last time in vain. */
const Metadata = Schema.Literals(["pending", "fetched", "missing"])

export class Page extends Domain.Entity(
  Model.Class<Page>("trails/Page")({
    id: Model.GeneratedByDb(PageId),
    trailId: Model.FieldExcept(["jsonCreate"])(TrailId),
    url: Schema.String,
    /** What the user called it, else what the page calls itself. */
    title: Schema.NullOr(Schema.String),
    /** What the page says of itself. */
    description: Model.GeneratedByDb(Schema.NullOr(Schema.String)),
    metadata: Model.GeneratedByDb(Metadata),
    fetchedAt: Model.Field({
      select: Schema.NullOr(Schema.DateTimeUtcFromDate),
      json: Schema.NullOr(Schema.DateTimeUtcFromString)
    }),
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
