/** The pages, as HTML. Nothing here asks anybody: a view is a function of what it shows. */
import type { Tree } from "@coppice/supervision"
import type { Page } from "../Page.ts"
import { listLimit } from "../Captures.ts"
import type { Trail, TrailId, TrailSummary } from "../Trail.ts"
import type { User } from "../User.ts"
import { type Content, html, type Html, link } from "./Html.ts"
import { processes } from "./processes.ts"
import { dateAndTime } from "./time.ts"

/** What somebody typed into a form, and what is wrong with it. */
export interface Form {
  readonly values: Readonly<Record<string, string | undefined>>
  readonly errors: Readonly<Record<string, ReadonlyArray<string>>>
}

export const blankForm: Form = { values: {}, errors: {} }

/** What the panel beside every page shows. */
export interface Panel {
  readonly roots: ReadonlyArray<Tree.Snapshot>
  /** Whether there are buttons that crash a process. */
  readonly crashable: boolean
}

/** The list of somebody's trails, with a form to start one. */
export const home = (props: {
  readonly user: User
  readonly trails: ReadonlyArray<TrailSummary>
  readonly form: Form
  readonly panel: Panel
}): Html =>
  document({
    title: "Trails",
    user: props.user,
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
  readonly user: User
  readonly trail: TrailSummary
  readonly pages: ReadonlyArray<Page>
  readonly notice: string | undefined
  readonly capture: Form
  readonly rename: Form
  readonly panel: Panel
}): Html => {
  const { capture, pages, rename, trail } = props
  const oldest = pages.length === listLimit ? pages.at(-1) : undefined
  const renaming = Object.keys(rename.errors).length > 0
  return document({
    title: trail.name,
    user: props.user,
    main: html`
      <div class="head"><h1>${trail.name}</h1>${badge(trail.status)}</div>
      <p class="facts">${count(trail.pages)}, started ${dateAndTime(trail.createdAt)}</p>
      <div class="actions">
        ${
          trail.status === "active"
            ? html`<form method="post" action="/trails/${trail.id}/pause">
                <button class="button-plain">Pause</button>
              </form>`
            : html`<form method="post" action="/trails/${trail.id}/resume"><button>Resume</button></form>`
        }
        <details class="rename" ${renaming && html`open`}>
          <summary>Rename</summary>
          <form method="post" action="/trails/${trail.id}/name">
            <input type="hidden" name="version" value="${trail.version}">
            <div class="fields fields-short">
              ${field({ name: "name", label: "New name", form: rename, value: trail.name })}
              <button>Rename</button>
            </div>
          </form>
        </details>
      </div>
      ${props.notice !== undefined && html`<p class="notice" role="alert">${props.notice}</p>`}
      <form class="card" method="post" action="/trails/${trail.id}/pages">
        <div class="fields">
          ${field({ name: "url", label: "Address of a page", form: capture, placeholder: "https://" })}
          ${field({ name: "title", label: "Title (optional)", form: capture })}
          <button>Capture</button>
        </div>
        ${trail.status === "paused" && html`<p class="hint">Paused: captures are refused until the trail is resumed.</p>`}
      </form>
      ${
        pages.length === 0
          ? html`<p class="empty">Nothing captured yet.</p>`
          : html`<ul class="list">${pages.map(page)}</ul>`
      }
      ${oldest !== undefined && html`<a class="more" href="/trails/${trail.id}?before=${oldest.id}">Older pages</a>`}
    `,
    panel: props.panel,
    trail: trail.id
  })
}

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

const document = (props: {
  readonly title: string
  readonly user: User
  readonly main: Html
  readonly panel: Panel
  readonly trail: TrailId | undefined
}): Html =>
  shell(
    props.title,
    props.user,
    html`<main>${props.main}</main>
      <aside class="card panel">
        <div class="panel-head"><h2>Processes</h2><span class="live" data-live></span></div>
        <p class="hint">
          ${
            props.panel.crashable
              ? "Crash one: its supervisor starts it again, and no page is lost."
              : "What runs, and how often it had to be started again."
          }
        </p>
        <div data-events="/processes/events${props.trail !== undefined && `?trail=${props.trail}`}">
          ${processes(props.panel, props.trail)}
        </div>
      </aside>`
  )

const shell = (title: string, user: User | undefined, body: Content): Html => html`<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>${title}</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/assets/page.css">
  <script src="/assets/page.js" type="module"></script>
</head>
<body>
  <header class="top">
    <a class="brand" href="/">Trails</a>
    ${user !== undefined && html`<span>${user.name}</span>`}
  </header>
  <div class="frame">${body}</div>
</body>
</html>
`

const badge = (status: Trail["status"]): Html =>
  html`<span class="badge badge-${status}">${status === "active" ? "collecting" : "paused"}</span>`

const count = (pages: number): string => `${pages} page${pages === 1 ? "" : "s"}`

const page = ({ capturedAt, title, url }: Page): Html => html`<li>
  ${link(url, title ?? url)}
  <p class="facts">${title !== null && `${URL.parse(url)?.host ?? url}, `}captured ${dateAndTime(capturedAt)}</p>
</li>`

const field = (props: {
  readonly name: string
  readonly label: string
  readonly form: Form
  readonly value?: string
  readonly placeholder?: string
}): Html => {
  const errors = props.form.errors[props.name] ?? []
  const invalid = errors.length > 0
  return html`<div>
    <label for="${props.name}">${props.label}</label>
    <input type="text" id="${props.name}" name="${props.name}" autocomplete="off"
      value="${props.form.values[props.name] ?? props.value}" placeholder="${props.placeholder}"
      ${invalid && html`aria-invalid="true" aria-describedby="${props.name}-error"`}>
    ${invalid && html`<p class="error" id="${props.name}-error">${props.label} ${errors.join(", ")}.</p>`}
  </div>`
}
