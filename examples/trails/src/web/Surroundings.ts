/** What every page shows besides its own matter, and how it is answered. */
import { Jobs } from "@coppice/jobs"
import { Tree } from "@coppice/supervision"
import { Effect } from "effect"
import { HttpServerResponse } from "effect/http"
import { Notifications } from "../Notifications.ts"
import type { User } from "../User.ts"
import type { Html } from "./Html.ts"
import type { Reader } from "./layout.ts"

/** With `crashable` the panel has buttons that crash a process. */
export const make = (crashable: boolean) =>
  Effect.gen(function* () {
    const notifications = yield* Notifications
    const jobs = yield* Jobs.Jobs
    return {
      panel: Effect.gen(function* () {
        const queues = yield* Effect.orDie(jobs.queues)
        return { roots: yield* Tree.snapshot, queues, crashable }
      }),
      reader: (user: User): Effect.Effect<Reader> =>
        Effect.map(notifications.unread(user.id), (unread) => ({ user, unread }))
    }
  })

/** A page; it is never kept, for it is old in a moment. */
export const respond = (
  view: Html,
  options: { readonly status?: number; readonly headers?: Readonly<Record<string, string>> } = {}
): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(view.markup, {
    status: options.status ?? 200,
    contentType: "text/html; charset=utf-8",
    headers: { ...options.headers, "cache-control": "no-store" }
  })

/** Leads on after a form that worked. */
export const seeOther = (location: string): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.redirect(location, { status: 303 })
