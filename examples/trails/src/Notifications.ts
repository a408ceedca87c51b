/**
 * Notifications: what users are told, read, and told again as the digest of a day.
 *
 * Holds no state. Telling is idempotent: somebody is told of a page once, and has one digest of a day, however often it
 * is said and by how many at once.
 */
import { Domain } from "@coppice/domain"
import { Context, DateTime, Effect, Schema } from "effect"
import { SqlClient, SqlSchema } from "effect/sql"
import { Digest, Notification, NotificationId } from "./Notification.ts"
import type { PageId } from "./Page.ts"
import { UserId } from "./User.ts"

/** How many notifications `list` gives at most. */
export const listLimit = 100

/** How many digests `digests` gives: the newest. */
const digestLimit = 14

export class Notifications extends Context.Service<
  Notifications,
  {
    /** Tells a follower of a page; one who has left the trail by now is told nothing. */
    readonly tell: (user: UserId, page: PageId) => Effect.Effect<void>
    /** Newest first; `before` goes on after the last one of an earlier list. */
    readonly list: (user: UserId, before?: NotificationId) => Effect.Effect<ReadonlyArray<Notification>>
    readonly unread: (user: UserId) => Effect.Effect<number>
    /** Up to one that has been seen: those that came later stay unread. */
    readonly markRead: (user: UserId, upTo: NotificationId) => Effect.Effect<void>
    /** Writes a digest for everybody who was told something from one instant until another. Answers how many. */
    readonly digest: (day: string, from: DateTime.Utc, until: DateTime.Utc) => Effect.Effect<number>
    readonly digests: (user: UserId) => Effect.Effect<ReadonlyArray<Digest>>
  }
>()("trails/Notifications") {
  static readonly layer = Domain.layer(
    Notifications,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const now = Effect.map(DateTime.now, DateTime.toDateUtc)
      const listNotifications = SqlSchema.findAll({
        Request: Schema.Struct({ user: UserId, before: Schema.UndefinedOr(NotificationId) }),
        Result: Notification,
        execute: ({ before, user }) => sql`
          select notifications.id, trail_id, trails.name as trail_name, url, title, notifications.created_at, read_at
          from notifications join pages on pages.id = page_id join trails on trails.id = trail_id
          where user_id = ${user} ${before === undefined ? sql`` : sql`and notifications.id < ${before}`}
          order by notifications.id desc limit ${listLimit}`
      })
      const countUnread = SqlSchema.findOne({
        Request: UserId,
        Result: Schema.Struct({ unread: Schema.Int }),
        execute: (user) => sql`
          select count(*)::int as unread from notifications where user_id = ${user} and read_at is null`
      })
      const listDigests = SqlSchema.findAll({
        Request: UserId,
        Result: Digest,
        execute: (user) => sql`
          select day::text, pages, trails from digests where user_id = ${user} order by day desc limit ${digestLimit}`
      })

      return {
        tell: Effect.fn("Notifications.tell")(function* (user: UserId, page: PageId) {
          yield* sql`
            insert into notifications (user_id, page_id, created_at)
            select ${user}, pages.id, ${yield* now} from pages join followers using (trail_id)
            where pages.id = ${page} and user_id = ${user}
            on conflict on constraint notifications_user_page_key do nothing`
        }, Effect.orDie),
        list: Effect.fn("Notifications.list")((user: UserId, before?: NotificationId) =>
          Effect.orDie(listNotifications({ user, before }))
        ),
        unread: Effect.fn("Notifications.unread")((user: UserId) =>
          Effect.orDie(Effect.map(countUnread(user), ({ unread }) => unread))
        ),
        markRead: Effect.fn("Notifications.markRead")(function* (user: UserId, upTo: NotificationId) {
          yield* sql`
            update notifications set read_at = ${yield* now}
            where user_id = ${user} and id <= ${upTo} and read_at is null`
        }, Effect.orDie),
        digest: Effect.fn("Notifications.digest")(function* (day: string, from: DateTime.Utc, until: DateTime.Utc) {
          const written = yield* sql`
            insert into digests (user_id, day, pages, trails, created_at)
            select user_id, ${day}::date, count(*), count(distinct trail_id), ${yield* now}
            from notifications join pages on pages.id = page_id
            where created_at >= ${DateTime.toDateUtc(from)} and created_at < ${DateTime.toDateUtc(until)}
            group by user_id
            on conflict on constraint digests_pkey do nothing returning user_id`
          return written.length
        }, Effect.orDie),
        digests: Effect.fn("Notifications.digests")((user: UserId) => Effect.orDie(listDigests(user)))
      }
    })
  )
}
