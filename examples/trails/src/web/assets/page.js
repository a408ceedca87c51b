// Keeps the panel of processes, the queues, and the newest pages of a trail up to date. Without this script the page works the same and shows how things were when
// it was loaded.
const panel = document.querySelector("[data-events]")
const live = document.querySelector("[data-live]")
const pages = document.querySelector("[data-pages]")
const queues = document.querySelector("[data-queues]")

const show = (markup) => {
  // A button that is being pressed must not be replaced under the finger.
  if (panel.querySelector(":active") !== null) return
  const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.path : undefined
  panel.innerHTML = markup
  if (focused !== undefined) panel.querySelector(`[data-path="${CSS.escape(focused)}"]`)?.focus()
}

const showPages = (markup) => {
  // Neither a link that is being pressed, nor text that is being selected or read by keyboard.
  if (pages === null || pages.querySelector(":active, :focus") !== null) return
  if (pages.innerHTML !== markup) pages.innerHTML = markup
}

let events

const follow = () => {
  events = new EventSource(panel.dataset.events)
  events.addEventListener("open", () => (live.textContent = "live"))
  events.addEventListener("error", () => (live.textContent = "reconnecting"))
  events.addEventListener("processes", (event) => show(event.data))
  events.addEventListener("queues", (event) => (queues.innerHTML = event.data))
  events.addEventListener("pages", (event) => showPages(event.data))
}

const unfollow = () => {
  events.close()
  live.textContent = ""
}

if (panel !== null) {
  follow()
  // A tab that nobody looks at needs no connection; browsers allow only six to one server.
  document.addEventListener("visibilitychange", () => (document.hidden ? unfollow() : follow()))
  panel.addEventListener("submit", (event) => {
    event.preventDefault()
    const { action, method } = event.target
    fetch(action, { method, body: new URLSearchParams(new FormData(event.target)), redirect: "manual" })
  })
}
