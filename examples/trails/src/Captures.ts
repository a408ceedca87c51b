/**
 * Captures: web pages put into a trail.
 *
 * Holds no state. A capture locks its trail for as long as it writes, so a trail whose pause has committed takes no page
 * any more. Captures into one trail take turns: locks that they shared would overlap without end, and keep a pause waiting.
 *
 * What is to be done about a page is enqueued in the same transaction: it is done if the page is there, and only then.
 */
import { Changeset, Domain, type ValidationError } from "@coppice/domain"
import { Jobs } from "@coppice/jobs"
import { Context, Effect, Option, Schema } from "effect"
import { SqlClient, SqlSchema } from "effect/sql"
import { Followers } from "./Followers.ts"
import { MetadataWorker } from "./jobs/MetadataWorker.ts"
import { NotificationWorker } from "./jobs/NotificationWorker.ts"
import { CapturePage, Page, PageId } from "./Page.ts"
import { Trail, TrailId, TrailNotFound, TrailPaused } from "./Trail.ts"
import { teller } from "./TrailEvents.ts"
import { UserId } from "./User.ts"

/** How many pages `list` gives at most. */
export const listLimit = 100

export class Captures extends Context.Service<
  Captures,
  {
    /** A page that the trail already holds is an error of its `url`. */
    readonly capture: (
      owner: UserId,
      trail: TrailId,
      input: unknown
    ) => Effect.Effect<Page, ValidationError.ValidationError | TrailNotFound | TrailPaused>
    /** The pages of a trail, newest first; `before` goes on after the last page of an earlier list. */
    readonly list: (trail: TrailId, before?: PageId) => Effect.Effect<ReadonlyArray<Page>>
  }
>()("trails/Captures") {
  static readonly layer = Domain.layer(
    Captures,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const tell = yield* teller
      const followers = yield* Followers
      const jobs = yield* Jobs.Jobs
      const insert = SqlSchema.findOne({
        Request: Page.insert,
        Result: Page,
        execute: (row) => sql`insert into pages ${sql.insert(row)} returning *`
      })
      const lockTrail = SqlSchema.findOneOption({
        Request: Schema.Struct({ id: TrailId, owner: UserId }),
        Result: Trail,
        execute: ({ id, owner }) => sql`select * from trails where id = ${id} and owner_id = ${owner} for no key update`
      })
      const listPages = SqlSchema.findAll({
        Request: Schema.Struct({ trail: TrailId, before: Schema.UndefinedOr(PageId) }),
        Result: Page,
        execute: ({ before, trail }) => sql`
          select * from pages where trail_id = ${trail} ${before === undefined ? sql`` : sql`and id < ${before}`}
          order by id desc limit ${listLimit}`
      })

      /** Looks at the page, and tells those who follow the trail. */
      const enqueueWork = Effect.fnUntraced(function* ({ id: pageId, trailId, url }: Page) {
        const users = yield* followers.of(trailId)
        const answers = yield* jobs.enqueueMany([
          MetadataWorker.job({ pageId, url }),
          ...users.map((userId) => NotificationWorker.job({ pageId, userId }))
        ])
        for (const answer of answers) if (answer._tag === "Rejected") return yield* answer.error
      }, Effect.orDie)

      return {
        capture: Effect.fn("Captures.capture")(
          function* (owner: UserId, id: TrailId, input: unknown) {
            const { title, url } = yield* Changeset.cast(CapturePage, input)
            const trail = yield* lockTrail({ id, owner })
            if (Option.isNone(trail)) return yield* new TrailNotFound({ id })
            if (trail.value.status === "paused") return yield* new TrailPaused({ id, name: trail.value.name })
            const row = yield* Effect.orDie(Page.insert.makeEffect({ trailId: id, url, title: title || null }))
            const page = yield* insert(row)
            yield* enqueueWork(page)
            yield* tell(id, { _tag: "PageCaptured", page: page.id, url: page.url })
            return page
          },
          sql.withTransaction,
          Effect.catchTag("NoSuchElementError", Effect.die),
          constraints
        ),
        list: Effect.fn("Captures.list")((trail: TrailId, before?: PageId) =>
          Effect.orDie(listPages({ trail, before }))
        )
      }
    })
  )
}

const constraints = Changeset.constraints({
  pages_trail_url_key: { field: "url", message: "is in this trail already" }
})
