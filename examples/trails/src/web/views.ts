/** The pages, as HTML. Nothing here asks anybody: a view is a function of what it shows. */
import type { Page } from "../Page.ts"
import { listLimit } from "../Captures.ts"
import type { Trail, TrailId, TrailSummary } from "../Trail.ts"
import type { User } from "../User.ts"
import { html, type Html, link } from "./Html.ts"
import { document, field, type Form, type Panel, type Reader, shell } from "./layout.ts"
import { dateAndTime } from "./time.ts"

/** The list of somebody's trails, with a form to start one. */
export const home = (props: {
  readonly reader: Reader
  readonly trails: ReadonlyArray<TrailSummary>
  readonly form: Form
  readonly panel: Panel
}): Html =>
  document({
    title: "Trails",
    reader: props.reader,
    main: html`
      <div class="head"><h1>Your trails</h1></div>
      <p class="facts">A trail keeps web pages together. Pause it when it is complete.</p>
      <form class="card" method="post" action="/trails">
        <div class="fields fields-short">
          ${field({ name: "name", label: "Name of a new trail", form: props.form })}
          <button>Start</button>
        </div>
      </form>
      ${
        props.trails.length === 0
          ? html`<p class="empty">No trails yet: start one above.</p>`
          : html`<ul class="list">
            ${props.trails.map(
              (trail) => html`<li>
                <div class="head"><a href="/trails/${trail.id}">${trail.name}</a> ${badge(trail.status)}</div>
                <p class="facts">${count(trail.pages)}, started ${dateAndTime(trail.createdAt)}</p>
              </li>`
            )}
          </ul>`
      }
    `,
    panel: props.panel,
    trail: undefined
  })

/** One trail: its pages, newest first, and all that can be done with it. */
export const trail = (props: {
  readonly reader: Reader
  readonly trail: TrailSummary
  readonly pages: ReadonlyArray<Page>
  /** Whether these are the newest pages, which are kept up to date. */
  readonly newest: boolean
  readonly followers: ReadonlyArray<User>
  /** Who looks at it now, as far as is known. */
  readonly viewers: Html
  readonly notice: string | undefined
  readonly capture: Form
  readonly rename: Form
  readonly follow: Form
  readonly panel: Panel
}): Html => {
  const { capture, newest, pages, reader, rename, trail } = props
  const mine = trail.ownerId === reader.user.id
  const oldest = pages.length === listLimit ? pages.at(-1) : undefined
  const renaming = Object.keys(rename.errors).length > 0
  return document({
    title: trail.name,
    reader: props.reader,
    main: html`
      <div data-region="head">${trailHead(trail)}</div>
      <div class="facts viewers" data-region="viewers">${props.viewers}</div>
      ${
        mine
        && html`<div class="actions">
        <div data-region="step">${trailStep(trail)}</div>
        <details class="rename" ${renaming && html`open`}>
          <summary>Rename</summary>
          <form id="rename" method="post" action="/trails/${trail.id}/name">
            <div class="fields fields-short">
              ${field({ name: "name", label: "New name", form: rename, value: trail.name })}
              <button>Rename</button>
            </div>
          </form>
        </details>
      </div>`
      }
      ${props.notice !== undefined && html`<p class="notice" role="alert">${props.notice}</p>`}
      ${
        mine
        && html`<form class="card" method="post" action="/trails/${trail.id}/pages">
        <div class="fields">
          ${field({ name: "url", label: "Address of a page", form: capture, placeholder: "https://" })}
          ${field({ name: "title", label: "Title (optional)", form: capture })}
          <button>Capture</button>
        </div>
      </form>`
      }
      <div ${newest && html`data-region="pages"`}>${pageList(pages)}</div>
      ${oldest !== undefined && html`<a class="more" href="/trails/${trail.id}?before=${oldest.id}">Older pages</a>`}
      ${mine && followers(props)}
    `,
    panel: props.panel,
    trail: trail.id
  })
}

/** What a trail is called, and what there is to say of it. */
export const trailHead = (trail: TrailSummary): Html => html`
  <div class="head"><h1>${trail.name}</h1>${badge(trail.status)}</div>
  <p class="facts">${count(trail.pages)}, started ${dateAndTime(trail.createdAt)}</p>
  ${trail.status === "paused" && html`<p class="facts">Captures are refused until the trail is resumed.</p>`}`

/** The next step that its owner may take with a trail, and the version of it that they see, for a new name. */
export const trailStep = ({ id, status, version }: TrailSummary): Html => html`
  ${
    status === "active"
      ? html`<form method="post" action="/trails/${id}/pause"><button class="button-plain">Pause</button></form>`
      : html`<form method="post" action="/trails/${id}/resume"><button>Resume</button></form>`
  }
  <input type="hidden" form="rename" name="version" value="${version}">`

/** The pages of a trail. */
export const pageList = (pages: ReadonlyArray<Page>): Html =>
  pages.length === 0 ? html`<p class="empty">Nothing captured yet.</p>` : html`<ul class="list">${pages.map(page)}</ul>`

/** Who follows a trail, each with a button to remove them. */
export const followerList = (trail: TrailId, followers: ReadonlyArray<User>): Html => html`<ul>
  ${followers.map(
    ({ name }) => html`<li>
      ${name}
      <form method="post" action="/trails/${trail}/followers/remove">
        <input type="hidden" name="name" value="${name}">
        <button class="button-plain" aria-label="Remove ${name}">Remove</button>
      </form>
    </li>`
  )}
</ul>`

/** Why there is no page. */
export const failure = (props: { readonly title: string; readonly detail: string | undefined }): Html =>
  shell(
    props.title,
    undefined,
    html`<main>
      <h1>${props.title}</h1>
      ${props.detail !== undefined && html`<p class="facts">${props.detail}</p>`}
      <p class="more"><a href="/">Go to your trails</a></p>
    </main>`
  )

const badge = (status: Trail["status"]): Html =>
  html`<span class="badge badge-${status}">${status === "active" ? "collecting" : "paused"}</span>`

const count = (pages: number): string => `${pages} page${pages === 1 ? "" : "s"}`

const page = ({ capturedAt, description, metadata, title, url }: Page): Html => html`<li>
  ${link(url, title ?? url)}
  ${description !== null && html`<p class="description">${description}</p>`}
  <p class="facts">
    ${title !== null && `${URL.parse(url)?.host ?? url}, `}captured ${dateAndTime(capturedAt)}
    ${metadata === "pending" && "· looking at the page"}
    ${metadata === "missing" && title === null && "· the page could not be read"}
  </p>
</li>`

const followers = (props: {
  readonly trail: TrailSummary
  readonly followers: ReadonlyArray<User>
  readonly follow: Form
}): Html => html`
  <section class="followers">
    <h2>Followers</h2>
    <p class="facts">They are told of every page that is captured, and may look at this one.</p>
    <div data-region="followers">${followerList(props.trail.id, props.followers)}</div>
    <form class="card" method="post" action="/trails/${props.trail.id}/followers">
      <div class="fields fields-short">
        ${field({ name: "follower", label: "Name of a follower", form: props.follow })}
        <button>Add</button>
      </div>
    </form>
  </section>`
