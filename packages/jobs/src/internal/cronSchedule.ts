/**
 * When an entry of the crontab fires: reading expressions, stepping from instant to instant, and what to make up for.
 *
 * `effect/Cron` reads the expressions and steps through the wall clock. The zone's offsets come on top of that here, piece
 * by piece between two changes of the offset: so a step in either direction answers the nearest instant also beside a
 * change, and stepping back gives the same instants as stepping forth.
 */
import { Cron, DateTime, Duration, Option, Result } from "effect"
import { type CatchUp, InvalidEntry, tolerance } from "../Crontab.ts"
import { offsetsOf, type Offsets } from "./zoneOffsets.ts"

/** The instants of an expression, as milliseconds since the epoch. */
export interface Calendar {
  readonly _tag: "Calendar"
  /** The first instant after this one. */
  readonly next: (after: number) => number
  /** The last instant before this one. */
  readonly prev: (before: number) => number
}

/** Fires when the cluster starts. */
interface Reboot {
  readonly _tag: "Reboot"
}

export type Schedule = Calendar | Reboot

/** No expression needs more: a list of all minutes has 169 characters. */
const longest = 1_000

const nicknames: Readonly<Record<string, string>> = {
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
  "@monthly": "0 0 1 * *",
  "@weekly": "0 0 * * 0",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@hourly": "0 * * * *"
}

/** Reads an expression; whatever it returns has instants, however far away. */
export const parse = (name: string, expression: string, timeZone: string): Result.Result<Schedule, InvalidEntry> => {
  const invalid = (problem: string) => Result.fail(new InvalidEntry({ name, problem }))
  if (typeof expression !== "string" || typeof timeZone !== "string") {
    return invalid("needs texts as its expression and its time zone")
  }
  if (expression.length > longest) return invalid(`has an expression of more than ${longest} characters`)
  const shown = JSON.stringify(expression)
  const zone = timeZone.length > longest ? Option.none() : DateTime.zoneMakeNamed(timeZone)
  if (Option.isNone(zone)) {
    return invalid(
      `is in the unknown time zone ${JSON.stringify(timeZone.slice(0, 100))}: use a name such as Europe/Berlin`
    )
  }
  const text = expression.trim().toLowerCase()
  if (text === "@reboot") return Result.succeed({ _tag: "Reboot" })
  const fields = text.startsWith("@") ? nicknames[text] : text
  if (fields === undefined) {
    return invalid(`has the expression ${shown}, but there is only ${Object.keys(nicknames).join(", ")} and @reboot`)
  }
  const parsed = Cron.parse(fields, "UTC")
  if (Result.isFailure(parsed)) {
    const { input, message } = parsed.failure
    const part = input === undefined || input === fields ? "" : ` in ${JSON.stringify(input)}`
    return invalid(`has the expression ${shown}, which cannot be read: ${message}${part}`)
  }
  const wall = parsed.success
  // The search gives up after some ten thousand steps, which is far more than any date needs that exists.
  const found = Result.try(() => Cron.next(wall, 0))
  return Result.isFailure(found)
    ? invalid(`has the expression ${shown}, which never fires: no month has such a day`)
    : Result.succeed(makeCalendar(wall, offsetsOf(zone.value)))
}

/**
 * The instants after `last` and until `now` that are to fire, in order: those within the tolerance, and as many older ones
 * as the policy asks for. Found from the end, so that it does not matter how long nobody was there.
 */
export const due = (calendar: Calendar, last: number, now: number, catchUp: CatchUp): ReadonlyArray<number> => {
  const wanted = catchUp === "skip" ? 0 : catchUp === "latest" ? 1 : catchUp.all
  const onTime = now - toleranceMillis
  const found: Array<number> = []
  for (let at = calendar.prev(now + 1); at > last; at = calendar.prev(at)) {
    if (at < onTime && found.length >= wanted) break
    found.push(at)
  }
  return found.toReversed()
}

const toleranceMillis = Duration.toMillis(Duration.fromInputUnsafe(tolerance))

// --------------------------------------------------------------------------------------------------------------------
// stepping
// --------------------------------------------------------------------------------------------------------------------

/** Offsets differ by no more than this, and no change of an offset is greater. */
const day = 86_400_000

const makeCalendar = (wall: Cron.Cron, offsets: Offsets): Calendar => {
  // Such an entry follows real time: it fires whenever the clock shows a time that matches. Another one has an appointment,
  // which it keeps once when the clock shows the time twice, and as soon as it can when the clock leaves it out.
  const everyHour = wall.hours.size === 0 || wall.hours.size === 24

  const next = (after: number): number => {
    let from = after
    let piece = offsets.at(after)
    for (;;) {
      const repeated = everyHour ? Number.NEGATIVE_INFINITY : piece.start + piece.before
      const time = Cron.next(wall, Math.max(from + piece.offset, repeated - 1)).getTime()
      const at = time - piece.offset
      if (at < piece.end) return at
      if (at - piece.end > 3 * day && piece.end - from > 2 * day) {
        from = time - 2 * day
        piece = offsets.at(from)
        continue
      }
      if (!everyHour && time < piece.end + piece.after) return piece.end
      from = piece.end - 1
      piece = offsets.at(piece.end)
    }
  }

  const prev = (before: number): number => {
    let until = before
    let piece = offsets.at(before - 1)
    for (;;) {
      const time = Cron.prev(wall, until + piece.offset).getTime()
      const at = time - piece.offset
      const repeated = everyHour ? Number.NEGATIVE_INFINITY : piece.start + piece.before
      if (at >= piece.start && time >= repeated) return at
      if (piece.start - at > 3 * day && until - piece.start > 2 * day) {
        until = time + 2 * day
        piece = offsets.at(until - 1)
        continue
      }
      if (!everyHour && at < piece.start && time >= repeated) return piece.start
      until = piece.start
      piece = offsets.at(piece.start - 1)
    }
  }

  return { _tag: "Calendar", next, prev }
}
