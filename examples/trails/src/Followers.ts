/**
 * Followers: who is told of the pages that a trail gets.
 *
 * Holds no state. The owner of a trail says who follows it; whoever follows may look at its page, change nothing, and
 * leave.
 */
import { Changeset, Domain, ValidationError } from "@coppice/domain"
import { Context, DateTime, Effect, Option, Schema } from "effect"
import { SqlClient, SqlSchema } from "effect/sql"
import { TrailId, TrailNotFound } from "./Trail.ts"
import { teller } from "./TrailEvents.ts"
import { User, UserId } from "./User.ts"

/** Who shall follow. */
export const NewFollower = Schema.Struct({
  name: Schema.Trim.check(Schema.isNonEmpty({ message: "must not be empty" }))
})

/** A trail as its followers know it. */
export const FollowedTrail = Schema.Struct({ id: TrailId, name: Schema.String, owner: Schema.String })
export type FollowedTrail = typeof FollowedTrail.Type

export class Followers extends Context.Service<
  Followers,
  {
    /** By name. */
    readonly list: (owner: UserId, trail: TrailId) => Effect.Effect<ReadonlyArray<User>, TrailNotFound>
    /** Somebody who follows already goes on following. */
    readonly add: (
      owner: UserId,
      trail: TrailId,
      input: unknown
    ) => Effect.Effect<User, ValidationError.ValidationError | TrailNotFound>
    /** By the owner, or by the follower; somebody who does not follow stays as they are. */
    readonly remove: (by: UserId, trail: TrailId, name: string) => Effect.Effect<void, TrailNotFound>
    /** Whom a new page of the trail is to be told. */
    readonly of: (trail: TrailId) => Effect.Effect<ReadonlyArray<UserId>>
    readonly follows: (user: UserId, trail: TrailId) => Effect.Effect<boolean>
    /** The trails that somebody follows, by name. */
    readonly followedBy: (user: UserId) => Effect.Effect<ReadonlyArray<FollowedTrail>>
  }
>()("trails/Followers") {
  static readonly layer = Domain.layer(
    Followers,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const tell = yield* teller
      const TrailOf = Schema.Struct({ trail: TrailId, owner: UserId })
      const listFollowers = SqlSchema.findAll({
        Request: TrailId,
        Result: User,
        execute: (trail) => sql`
          select users.* from followers join users on users.id = user_id where trail_id = ${trail} order by users.name`
      })
      const findTrail = SqlSchema.findOneOption({
        Request: TrailOf,
        Result: Schema.Struct({ id: TrailId }),
        execute: ({ owner, trail }) => sql`select id from trails where id = ${trail} and owner_id = ${owner}`
      })
      const findUser = SqlSchema.findOneOption({
        Request: Schema.String,
        Result: User,
        execute: (name) => sql`select * from users where name = ${name}`
      })
      const listFollowed = SqlSchema.findAll({
        Request: UserId,
        Result: FollowedTrail,
        execute: (user) => sql`
          select trails.id, trails.name, users.name as owner
          from followers join trails on trails.id = trail_id join users on users.id = owner_id
          where user_id = ${user} order by trails.name, trails.id`
      })
      const owned = Effect.fnUntraced(function* (owner: UserId, trail: TrailId) {
        const found = yield* Effect.orDie(findTrail({ owner, trail }))
        if (Option.isNone(found)) return yield* new TrailNotFound({ id: trail })
      })

      return {
        list: Effect.fn("Followers.list")(function* (owner: UserId, trail: TrailId) {
          yield* owned(owner, trail)
          return yield* Effect.orDie(listFollowers(trail))
        }),
        add: Effect.fn("Followers.add")(function* (owner: UserId, trail: TrailId, input: unknown) {
          const { name } = yield* Changeset.cast(NewFollower, input)
          yield* owned(owner, trail)
          const user = yield* Effect.orDie(findUser(name))
          if (Option.isNone(user)) return yield* ValidationError.forField("name", "is the name of nobody")
          const now = DateTime.toDateUtc(yield* DateTime.now)
          const row = { trailId: trail, userId: user.value.id, followedAt: now }
          yield* Effect.orDie(sql`insert into followers ${sql.insert(row)} on conflict do nothing`)
          yield* tell(trail, { _tag: "FollowersChanged" })
          return user.value
        }),
        remove: Effect.fn("Followers.remove")(function* (by: UserId, trail: TrailId, name: string) {
          const removed = yield* Effect.orDie(sql`
            delete from followers using trails, users
            where trail_id = ${trail} and trails.id = trail_id and users.id = user_id and users.name = ${name}
              and ${by} in (owner_id, user_id)
            returning trail_id`)
          if (removed.length === 0) return yield* owned(by, trail)
          yield* tell(trail, { _tag: "FollowersChanged" })
        }),
        of: Effect.fn("Followers.of")(function* (trail: TrailId) {
          const users = yield* Effect.orDie(listFollowers(trail))
          return users.map(({ id }) => id)
        }),
        follows: Effect.fn("Followers.follows")(function* (user: UserId, trail: TrailId) {
          const rows = yield* sql`select 1 from followers where trail_id = ${trail} and user_id = ${user}`
          return rows.length > 0
        }, Effect.orDie),
        followedBy: Effect.fn("Followers.followedBy")((user: UserId) => Effect.orDie(listFollowed(user)))
      }
    })
  )
}
