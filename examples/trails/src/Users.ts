/** Who keeps trails. There is no sign-up: an application with a login puts it here. */
import { Domain } from "@coppice/domain"
import { Context, Effect, Option, Schema } from "effect"
import { SqlClient, SqlSchema } from "effect/sql"
import { User } from "./User.ts"

/** Nobody has this name. */
export class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { name: Schema.String }) {
  override get message(): string {
    return `There is no user called "${this.name}".`
  }
}

export class Users extends Context.Service<
  Users,
  {
    readonly find: (name: string) => Effect.Effect<User, UserNotFound>
    /** Adds a user; none when there is one of that name already. */
    readonly add: (name: string) => Effect.Effect<Option.Option<User>>
  }
>()("trails/Users") {
  static readonly layer = Domain.layer(
    Users,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const byName = SqlSchema.findOneOption({
        Request: Schema.String,
        Result: User,
        execute: (name) => sql`select * from users where name = ${name}`
      })
      const insert = SqlSchema.findOneOption({
        Request: Schema.String,
        Result: User,
        execute: (name) => sql`insert into users (name) values (${name}) on conflict (name) do nothing returning *`
      })
      return {
        find: Effect.fn("Users.find")(function* (name: string) {
          const user = yield* Effect.orDie(byName(name))
          return yield* Option.match(user, { onNone: () => new UserNotFound({ name }), onSome: Effect.succeed })
        }),
        add: Effect.fn("Users.add")((name: string) => Effect.orDie(insert(name)))
      }
    })
  )
}
