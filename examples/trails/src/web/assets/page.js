// Keeps the regions of a page up to date. Without this script the page works the same and shows how things were when it was
// loaded.
const source = document.querySelector("[data-events]")
const live = document.querySelector("[data-live]")
const regions = new Map(
  [...document.querySelectorAll("[data-region]")].map((region) => [region.dataset.region, region])
)

// What is new of a region that must not be replaced yet: something is being pressed in it, or a button has the focus that
// will not be there again.
const waiting = new Map()

// What tells a button that crashes a process, or a link, from the others.
const keyOf = (element) => element.dataset.path ?? element.getAttribute("href")

const show = (name, markup) => {
  const region = regions.get(name)
  const focused = region.contains(document.activeElement) ? document.activeElement : null
  const key = focused && keyOf(focused)
  if (region.querySelector(":active") !== null || (focused !== null && key === null)) {
    waiting.set(name, markup)
    return
  }
  waiting.delete(name)
  region.innerHTML = markup
  if (key !== null) [...region.querySelectorAll("[data-path], a")].find((element) => keyOf(element) === key)?.focus()
}

// One turn later nothing is pressed any more, and the focus is where it goes.
const showWaiting = () => setTimeout(() => [...waiting].forEach(([name, markup]) => show(name, markup)))

let events
let heard
let later

// Said once, for it is read aloud to those who cannot see it.
const say = (state) => {
  if (live.textContent !== state) live.textContent = state
}

const hear = () => {
  heard = Date.now()
  say("live")
}

const follow = () => {
  unfollow()
  say("connecting")
  heard = Date.now()
  events = new EventSource(source.dataset.events)
  events.addEventListener("open", hear)
  events.addEventListener("beat", hear)
  events.addEventListener("error", () => {
    const closed = events.readyState === EventSource.CLOSED
    say(closed || !navigator.onLine ? "offline" : "reconnecting")
    // A browser comes back by itself when the connection was lost, but not after an answer that is none.
    if (closed) later = setTimeout(follow, 2000 + 2000 * Math.random())
  })
  for (const name of regions.keys()) {
    events.addEventListener(name, ({ data }) => {
      hear()
      show(name, data)
    })
  }
}

const unfollow = () => {
  clearTimeout(later)
  events?.close()
  say("")
}

if (source !== null) {
  if (!document.hidden) follow()
  // A tab that nobody looks at needs no connection; browsers allow only six to one server.
  document.addEventListener("visibilitychange", () => (document.hidden ? unfollow() : follow()))
  addEventListener("online", () => !document.hidden && follow())
  // A connection may be dead without anybody having been told: the server is heard every 15 seconds, if it is there.
  setInterval(() => !document.hidden && Date.now() - heard > 40_000 && follow(), 5000)
  addEventListener("pointerup", showWaiting)
  addEventListener("focusout", showWaiting)
  source.addEventListener("submit", (event) => {
    event.preventDefault()
    const { action, method } = event.target
    fetch(action, { method, body: new URLSearchParams(new FormData(event.target)), redirect: "manual" })
  })
}
