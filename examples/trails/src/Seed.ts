/**
 * On the very first start: a user called "demo" with a trail, so that there is something to see, and one called "guest" who
 * follows it as well.
 */
import { Effect, Layer, Option } from "effect"
import { SqlClient } from "effect/sql"
import { Captures } from "./Captures.ts"
import { Followers } from "./Followers.ts"
import { Trails } from "./Trails.ts"
import { Users } from "./Users.ts"

/** The name of the user who is there from the start. */
export const demoUser = "demo"

/** The name of somebody who may look at the trail as well. */
export const guestUser = "guest"

/** Does its work once, in one transaction; later it finds the user and leaves everything as it is. */
export const run = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const users = yield* Users
  const trails = yield* Trails
  const captures = yield* Captures
  const followers = yield* Followers
  yield* sql.withTransaction(
    Effect.gen(function* () {
      const added = yield* users.add(demoUser)
      if (Option.isNone(added)) return
      const owner = added.value.id
      const trail = yield* trails.create(owner, { name: "How to let it crash" })
      yield* Effect.forEach(pages, (page) => captures.capture(owner, trail.id, page), { discard: true })
      yield* users.add(guestUser)
      for (const name of [demoUser, guestUser]) yield* followers.add(owner, trail.id, { name })
    }).pipe(Effect.orDie)
  )
})

/** Whoever stands on it starts when it has done its work. */
export const layer = Layer.effectDiscard(run)

const pages = [
  { url: "https://www.erlang.org/doc/system/sup_princ.html", title: "Supervisor behaviour: OTP design principles" },
  { url: "https://hexdocs.pm/elixir/Supervisor.html", title: "Supervisor: Elixir" },
  { url: "https://effect.website/", title: "Effect" }
]
