/** The supervision tree, as HTML: who runs, since when, how often it was restarted and why. */
import type { Tree } from "@coppice/supervision"
import { Cause } from "effect"
import { html, type Html } from "./Html.ts"
import { span } from "./time.ts"
import type { Panel } from "./layout.ts"

export const processes = (panel: Pick<Panel, "roots" | "crashable">): Html => {
  const list = (nodes: ReadonlyArray<Tree.Snapshot>, isRoot: boolean): Html =>
    html`<ul${isRoot && html` class="processes"`}>${nodes.map(
      (node) => html`<li>
        <div class="process process-${node.status}">
          <div>
            <span class="process-name">${node.id}</span>
            <p class="facts">${facts(node)}</p>
            ${node.restarts > 0 && html`<p class="why">${lastCrash(node)}</p>`}
          </div>
          ${
            panel.crashable
            && !isRoot
            && node.status === "running"
            && html`<form method="post" action="/processes/crash">
              <input type="hidden" name="path" value="${node.path}">
              <button class="button-plain" data-path="${node.path}" aria-label="Crash ${node.id}">Crash</button>
            </form>`
          }
        </div>
        ${node.children.length > 0 && list(node.children, false)}
      </li>`
    )}</ul>`
  return list(panel.roots, true)
}

const facts = (node: Tree.Snapshot): string => {
  const facts: Array<string> = [node.status === "running" ? `up ${span(node.uptimeMillis)}` : node.status]
  if (node.strategy !== undefined) facts.push(node.strategy.replaceAll("_", " "))
  if (node.restarts > 0) facts.push(`${node.restarts} restart${node.restarts === 1 ? "" : "s"}`)
  if (node.handled !== undefined) facts.push(`${node.handled} handled`)
  if (node.mailboxLength !== undefined && node.mailboxLength > 0) facts.push(`${node.mailboxLength} waiting`)
  if (node.leaked > 0) facts.push(`${node.leaked} leaked`)
  return facts.join(" · ")
}

const lastCrash = (node: Tree.Snapshot): string | undefined => {
  const crash = node.crashes.at(-1)
  if (crash === undefined) return undefined
  const error: unknown = Cause.squash(crash.cause)
  const message = error instanceof Error ? error.message : String(error)
  return message.length > 160 ? `${message.slice(0, 159)}…` : message
}
