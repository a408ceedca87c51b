/** Tells a follower of a page. One job for each of them: one who cannot be told keeps nobody else waiting. */
import { Worker } from "@coppice/jobs"
import { Effect } from "effect"
import { Notifications } from "../Notifications.ts"
import { PageId } from "../Page.ts"
import { UserId } from "../User.ts"

export class NotificationWorker extends Worker.Service<NotificationWorker>()("NotificationWorker", {
  args: { userId: UserId, pageId: PageId },
  queue: "notifications",
  maxAttempts: 3,
  unique: { keys: ["userId", "pageId"] }
}) {
  static readonly layer = this.toLayer(
    Effect.map(
      Notifications,
      (notifications) =>
        ({ args }) =>
          notifications.tell(args.userId, args.pageId)
    )
  )
}
