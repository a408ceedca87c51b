/**
 * What pages say of themselves, written to their rows.
 *
 * Holds no state. A page is asked once: whoever comes second, or comes late, changes nothing, so the same answer may be
 * brought as often as it takes.
 */
import { Domain } from "@coppice/domain"
import { Context, DateTime, Effect } from "effect"
import { SqlClient } from "effect/sql"
import type { HtmlHead } from "./fetching/HtmlHead.ts"
import type { PageId } from "./Page.ts"
import type { TrailId } from "./Trail.ts"
import { teller } from "./TrailEvents.ts"

export class PageMetadata extends Context.Service<
  PageMetadata,
  {
    /** The page has answered. A title that the user gave stays. */
    readonly found: (id: PageId, head: HtmlHead) => Effect.Effect<void>
    /** Nothing is to be had from the page any more. */
    readonly missing: (id: PageId) => Effect.Effect<void>
  }
>()("trails/PageMetadata") {
  static readonly layer = Domain.layer(
    PageMetadata,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const tell = yield* teller
      const described = (page: PageId, rows: ReadonlyArray<{ readonly trailId: TrailId }>) =>
        Effect.forEach(rows, ({ trailId }) => tell(trailId, { _tag: "PageDescribed", page }), { discard: true })

      return {
        found: Effect.fn("PageMetadata.found")(function* (id: PageId, { description, title }: HtmlHead) {
          const now = DateTime.toDateUtc(yield* DateTime.now)
          const rows = yield* sql<{ readonly trailId: TrailId }>`
            update pages
            set title = coalesce(title, ${title}), description = ${description}, metadata = 'fetched', fetched_at = ${now}
            where id = ${id} and metadata = 'pending' returning trail_id`
          yield* described(id, rows)
        }, Effect.orDie),
        missing: Effect.fn("PageMetadata.missing")(function* (id: PageId) {
          const rows = yield* sql<{ readonly trailId: TrailId }>`
            update pages set metadata = 'missing' where id = ${id} and metadata = 'pending' returning trail_id`
          yield* described(id, rows)
        }, Effect.orDie)
      }
    })
  )
}
