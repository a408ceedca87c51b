/** Times as people read them. */
import { DateTime } from "effect"
import { html, type Html } from "./Html.ts"

/** "23 Nov 2026, 13:45 UTC" */
export const dateAndTime = (time: DateTime.DateTime): Html =>
  html`<time datetime="${DateTime.formatIso(time)}">${DateTime.formatUtc(time, format)} UTC</time>`

const format = { locale: "en-GB", dateStyle: "medium", timeStyle: "short" } as const

/** "4 s", "12 min", "3 h", "2 d" */
export const span = (millis: number): string => {
  const seconds = Math.floor(millis / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`
  return `${Math.floor(seconds / 86_400)} d`
}
