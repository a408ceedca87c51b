/**
 * The offsets of a time zone, as pieces of time during which they do not change.
 */
import { DateTime } from "effect"

/** A piece of time, from `start` until before `end`. Where it was cut for being long, the offset beside it is its own. */
interface Piece {
  readonly start: number
  readonly end: number
  /** What the zone's clock shows more than UTC. */
  readonly offset: number
  /** The offset of the piece before, and of the one after. */
  readonly before: number
  readonly after: number
}

export interface Offsets {
  /** The piece that contains an instant. */
  readonly at: (instant: number) => Piece
}

/** Zones change their offsets at most every few weeks: a change and its opposite within a day would not be seen. */
const sample = 86_400_000
/** How much of a zone is looked at together. */
const span = 128 * sample
/** How many spans are kept: forty years of one zone, or a year of forty. */
const kept = 120

const known = new Map<string, ReadonlyArray<Piece>>()

/** The offsets of a zone. What was found is kept for all who ask. */
export const offsetsOf = (zone: DateTime.TimeZone.Named): Offsets => {
  const pieces = (index: number): ReadonlyArray<Piece> => {
    const key = `${zone.id} ${index}`
    const found = known.get(key)
    if (found !== undefined) return found
    if (known.size >= kept) known.clear()
    const made = cut(index * span, (index + 1) * span, (instant) =>
      DateTime.zonedOffset(DateTime.makeZonedUnsafe(instant, { timeZone: zone }))
    )
    known.set(key, made)
    return made
  }
  return {
    at: (instant) => {
      const found = pieces(Math.floor(instant / span)).findLast((piece) => piece.start <= instant)
      // The first piece starts where its span does.
      if (found === undefined) throw new RangeError(`There is no time zone offset at ${instant}`)
      return found
    }
  }
}

const cut = (from: number, to: number, offsetAt: (instant: number) => number): ReadonlyArray<Piece> => {
  // From before the span, so that no piece starts in the middle of an hour that the clock repeats.
  const begin = from - 2 * sample
  let current = offsetAt(begin)
  const changes = [{ at: begin, offset: current }]
  for (let high = begin + sample; high <= to; high += sample) {
    const offset = offsetAt(high)
    if (offset === current) continue
    changes.push({ at: findChange(high - sample, high, current, offsetAt), offset })
    current = offset
  }
  return changes
    .map(({ at, offset }, index) => ({
      start: at,
      end: Math.min(changes[index + 1]?.at ?? to, to),
      offset,
      before: changes[index - 1]?.offset ?? offset,
      after: changes[index + 1]?.offset ?? offset
    }))
    .filter((piece) => piece.end > from && piece.start < to)
}

/** The first instant at which the offset is not the one that it is at `low`, to the second. */
const findChange = (low: number, high: number, offset: number, offsetAt: (instant: number) => number): number => {
  let same = low / 1_000
  let other = high / 1_000
  while (other - same > 1) {
    const middle = Math.floor((same + other) / 2)
    if (offsetAt(middle * 1_000) === offset) same = middle
    else other = middle
  }
  return other * 1_000
}
