/**
 * Who asks. There is no login in this example: the header `x-user` is believed, and without it everybody is the demo
 * user. An application with sessions looks them up here.
 */
import { Context, Effect } from "effect"
import { HttpServerRequest } from "effect/http"
import { demoUser } from "../Seed.ts"
import type { User } from "../User.ts"
import { Users } from "../Users.ts"

export class CurrentUser extends Context.Service<CurrentUser, User>()("trails/web/CurrentUser") {}

export const find = Effect.gen(function* () {
  const { headers } = yield* HttpServerRequest.HttpServerRequest
  const users = yield* Users
  return yield* users.find(headers["x-user"] ?? demoUser)
})
