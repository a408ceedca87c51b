/** The part of the story with two processes that serve pages of one trail, and people who look at them. */
import { Duration, Effect } from "effect"
import { demoUser, guestUser } from "../Seed.ts"
import type { TrailId } from "../Trail.ts"
import * as AppProcess from "./AppProcess.ts"
import * as Client from "./Client.ts"
import * as OpenPage from "./OpenPage.ts"
import { check, scene, seconds, tell } from "./Story.ts"

/** How soon an open page shows what was captured elsewhere; a busy machine takes its time as well. */
const seenWithin = 2000

/** How soon those are gone whose process was killed. */
const goneWithin = 8000

/** Told to its end, with a process that runs on a database, and a trail in it. */
export const story = Effect.fnUntraced(function* (
  database: string,
  app: AppProcess.AppProcess,
  id: TrailId,
  args: ReadonlyArray<string>
) {
  scene("A second process on the database, with the page of the trail open in both")
  const other = yield* AppProcess.startOn(database, args)
  const client = yield* Client.make(app.url)
  const params = { id }
  yield* client.followers.add({ params, payload: { name: guestUser } })
  const mine = yield* OpenPage.open(`${app.url}/trails/${id}/events`, { user: demoUser })
  const theirs = yield* OpenPage.open(`${other.url}/trails/${id}/events`, { user: guestUser })
  yield* mine.shows("viewers", guestUser)
  yield* theirs.shows("viewers", demoUser)
  tell(`"${demoUser}" sees: ${mine.region("viewers")}`)
  tell(`"${guestUser}" sees: ${theirs.region("viewers")}`)

  const url = "http://127.0.0.1/seen-elsewhere"
  yield* client.captures.capture({ params, payload: { url, title: "Seen elsewhere" } })
  const [took] = yield* Effect.timed(theirs.shows("pages", url))
  const delay = Math.round(Duration.toMillis(took))
  check(`a page captured in one is seen in the other ${delay} ms later`, delay < seenWithin)

  scene("The second process is killed (kill -9)")
  yield* other.signal("SIGKILL")
  yield* other.ended
  const [gone] = yield* Effect.timed(mine.shows("viewers", "Only you"))
  const millis = Duration.toMillis(gone)
  check(`whoever looked at the trail by it is gone after ${seconds(millis)}`, millis < goneWithin)
})
