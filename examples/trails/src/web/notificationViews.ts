/** What somebody was told, as a page. */
import type { FollowedTrail } from "../Followers.ts"
import type { Digest, Notification } from "../Notification.ts"
import { listLimit } from "../Notifications.ts"
import { html, type Html, link } from "./Html.ts"
import { document, type Panel, type Reader } from "./layout.ts"
import { dateAndTime } from "./time.ts"

/** Notifications newest first, the digests of the last days, and the trails that are followed. */
export const notifications = (props: {
  readonly reader: Reader
  readonly notifications: ReadonlyArray<Notification>
  readonly digests: ReadonlyArray<Digest>
  readonly followed: ReadonlyArray<FollowedTrail>
  readonly panel: Panel
}): Html => {
  const { digests, followed, notifications, reader } = props
  const newest = notifications[0]
  const oldest = notifications.length === listLimit ? notifications.at(-1) : undefined
  return document({
    title: "Notifications",
    reader,
    main: html`
      <div class="head"><h1>Notifications</h1></div>
      ${
        reader.unread > 0
        && newest !== undefined
        && html`<form class="actions" method="post" action="/notifications/read">
          <input type="hidden" name="upTo" value="${newest.id}">
          <button class="button-plain">Mark all as read</button>
        </form>`
      }
      ${
        notifications.length === 0
          ? html`<p class="empty">Nothing yet. You are told of every page of the trails that you follow.</p>`
          : html`<ul class="list">${notifications.map(notification)}</ul>`
      }
      ${oldest !== undefined && html`<a class="more" href="/notifications?before=${oldest.id}">Older notifications</a>`}
      ${
        digests.length > 0
        && html`<section class="followers">
          <h2>Day by day</h2>
          <ul>${digests.map(digest)}</ul>
        </section>`
      }
      ${
        followed.length > 0
        && html`<section class="followers">
          <h2>Trails that you follow</h2>
          <ul>${followed.map(followedTrail)}</ul>
        </section>`
      }
    `,
    panel: props.panel,
    trail: undefined
  })
}

const notification = ({ createdAt, readAt, title, trailName, url }: Notification): Html => html`<li>
  ${link(url, title ?? url)} ${readAt === null && html`<span class="badge">new</span>`}
  <p class="facts">in ${trailName}, ${dateAndTime(createdAt)}</p>
</li>`

const digest = ({ day, pages, trails }: Digest): Html =>
  html`<li>${day}: ${pages} page${pages !== 1 && "s"} in ${trails} trail${trails !== 1 && "s"}</li>`

const followedTrail = ({ id, name, owner }: FollowedTrail): Html => html`<li>
  <span><a href="/trails/${id}">${name}</a>, by ${owner}</span>
  <form method="post" action="/notifications/leave">
    <input type="hidden" name="trail" value="${id}">
    <button class="button-plain" aria-label="Leave ${name}">Leave</button>
  </form>
</li>`
