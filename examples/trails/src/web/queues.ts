/** The queues of all processes, as HTML: what is being done, what waits, and what comes later. */
import type { Queue } from "@coppice/jobs"
import { Duration } from "effect"
import { html, type Html } from "./Html.ts"
import { span } from "./time.ts"

export const queues = (all: ReadonlyArray<Queue.Status>): Html =>
  html`<ul class="processes">${all.map(
    (queue) => html`<li>
    <div class="process process-${queue.paused ? "stopping" : "running"}">
      <div>
        <span class="process-name">${queue.name}</span>
        <p class="facts">${facts(queue)}</p>
      </div>
    </div>
  </li>`
  )}</ul>`

const facts = ({ available, executing, oldestAvailable, paused, retryable, scheduled }: Queue.Status): string => {
  const later = scheduled + retryable
  const facts = [
    ...(paused ? ["paused"] : []),
    ...(executing > 0 ? [`${executing} running`] : []),
    ...(available > 0 ? [`${available} waiting`] : []),
    ...(later > 0 ? [`${later} later`] : []),
    ...(oldestAvailable !== undefined && available > 0 ? [`oldest ${span(Duration.toMillis(oldestAvailable))}`] : [])
  ]
  return facts.length === 0 ? "nothing to do" : facts.join(" · ")
}
