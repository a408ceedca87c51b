/** The page of notifications, and the forms on it. */
import { Changeset } from "@coppice/domain"
import { Effect, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { Followers } from "../Followers.ts"
import { NotificationId } from "../Notification.ts"
import { Notifications } from "../Notifications.ts"
import { TrailId } from "../Trail.ts"
import * as Body from "./Body.ts"
import * as CurrentUser from "./CurrentUser.ts"
import { notifications as view } from "./notificationViews.ts"
import { fromValidationError } from "./Problem.ts"
import * as Surroundings from "./Surroundings.ts"

/** The routes below `/notifications`. */
export const layer = (crashable: boolean) =>
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const notifications = yield* Notifications
      const followers = yield* Followers
      const { panel, reader } = yield* Surroundings.make(crashable)

      yield* router.add(
        "GET",
        "/notifications",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const { before } = yield* HttpRouter.schemaParams(BeforeNotification).pipe(
            Effect.orElseSucceed(() => ({ before: undefined }))
          )
          const list = yield* notifications.list(user.id, before)
          const digests = yield* notifications.digests(user.id)
          const followed = yield* followers.followedBy(user.id)
          return Surroundings.respond(
            view({ reader: yield* reader(user), notifications: list, digests, followed, panel: yield* panel })
          )
        })
      )

      yield* router.add(
        "POST",
        "/notifications/read",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const { upTo } = yield* Changeset.cast(ReadForm, yield* Body.form)
          yield* notifications.markRead(user.id, upTo)
          return Surroundings.seeOther("/notifications")
        }).pipe(Effect.catchTag("ValidationError", (error) => fromValidationError(error)))
      )

      yield* router.add(
        "POST",
        "/notifications/leave",
        Effect.gen(function* () {
          const user = yield* CurrentUser.find
          const { trail } = yield* Changeset.cast(LeaveForm, yield* Body.form)
          // Whoever has left already has nothing to leave.
          yield* Effect.catchTag(followers.remove(user.id, trail, user.name), "TrailNotFound", () => Effect.void)
          return Surroundings.seeOther("/notifications")
        }).pipe(Effect.catchTag("ValidationError", (error) => fromValidationError(error)))
      )

      yield* router.add("GET", "/notifications/:form", Surroundings.seeOther("/notifications"))
    })
  )

const NotificationIdFromString = Schema.FiniteFromString.pipe(Schema.decodeTo(NotificationId))
const BeforeNotification = Schema.Struct({ before: Schema.optionalKey(NotificationIdFromString) })
const ReadForm = Schema.Struct({ upTo: NotificationIdFromString })
const LeaveForm = Schema.Struct({ trail: TrailId })
