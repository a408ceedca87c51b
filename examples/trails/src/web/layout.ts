/** What all pages share: the frame around them, the panel of processes beside them, and the fields of their forms. */
import type { Queue } from "@coppice/jobs"
import type { Tree } from "@coppice/supervision"
import type { TrailId } from "../Trail.ts"
import type { User } from "../User.ts"
import { type Content, html, type Html } from "./Html.ts"
import { processes } from "./processes.ts"
import { queues } from "./queues.ts"

/** What somebody typed into a form, and what is wrong with it. */
export interface Form {
  readonly values: Readonly<Record<string, string | undefined>>
  readonly errors: Readonly<Record<string, ReadonlyArray<string>>>
}

export const blankForm: Form = { values: {}, errors: {} }

/** What the panel beside every page shows: who runs, and what there is to do. */
export interface Panel {
  readonly roots: ReadonlyArray<Tree.Snapshot>
  readonly queues: ReadonlyArray<Queue.Status>
  /** Whether there are buttons that crash a process. */
  readonly crashable: boolean
}

/** Who looks at the page, and how much there is that they have not read. */
export interface Reader {
  readonly user: User
  readonly unread: number
}

/** A page with the panel of processes beside it. */
export const document = (props: {
  readonly title: string
  readonly reader: Reader
  readonly main: Html
  readonly panel: Panel
  readonly trail: TrailId | undefined
}): Html =>
  shell(
    props.title,
    props.reader,
    html`<main>${props.main}</main>
      <aside class="card panel" data-events="${props.trail === undefined ? "/processes/events" : `/trails/${props.trail}/events`}">
        <div class="panel-head"><h2>Queues</h2><span class="live" role="status" data-live></span></div>
        <div data-region="queues">${queues(props.panel.queues)}</div>
        <h2>Processes</h2>
        <p class="hint">
          ${
            props.panel.crashable
              ? "Crash one: its supervisor starts it again, and no page is lost."
              : "What runs, and how often it had to be started again."
          }
        </p>
        <div data-region="processes">
          ${processes(props.panel)}
        </div>
      </aside>`
  )

/** A page with nothing around it but the top. */
export const shell = (title: string, reader: Reader | undefined, body: Content): Html => html`<!doctype html>
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
    ${
      reader !== undefined
      && html`<nav>
        <a href="/notifications">Notifications${reader.unread > 0 && html` <span class="badge">${reader.unread}</span>`}</a>
        <span>${reader.user.name}</span>
      </nav>`
    }
  </header>
  <div class="frame">${body}</div>
</body>
</html>
`

/** A field of a form, with what was typed and what is wrong with it. */
export const field = (props: {
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
