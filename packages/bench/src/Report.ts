/** What a run says: rows for programs, a Markdown table for people. */
import type { Case, Measured, Spread } from "./Bench.ts"

/** The subject of a case beside one of its baselines; one row per baseline, all of one run. */
export interface Row {
  readonly suite: string
  readonly name: string
  /** Median of the subject. */
  readonly value: number
  readonly unit: string
  /** What was measured beside the subject, `null` when it ran alone. */
  readonly baseline: string | null
  /** `value` over the baseline's median, `null` when that is nothing. */
  readonly ratio: number | null
  readonly target: number | null
  readonly met: boolean | null
}

export const rows = (suite: string, measured: ReadonlyArray<Measured>): ReadonlyArray<Row> =>
  measured.flatMap(({ baselines, case: entry, subject: { median: value } }) => {
    const { name, target, unit } = entry
    const row = (baseline: string | null, ratio: number | null): Row => ({
      suite,
      name,
      value,
      unit,
      baseline,
      ratio,
      target,
      met: met(entry, value)
    })
    if (baselines.length === 0) return [row(null, null)]
    return baselines.map(([baseline, { median }]) => row(baseline, over(value, median)))
  })

/** A Markdown table, one line per contender; a ratio is how many times the baseline's figure the subject's is. */
export const table = (measured: ReadonlyArray<Measured>): string => {
  const lines = measured.flatMap(({ baselines, case: entry, subject }): ReadonlyArray<Line> => [
    { what: entry.name, who: entry.subject.name, ...subject, unit: entry.unit, target: verdict(entry, subject.median) },
    ...baselines.map(([who, spread]) => ({ who, ...spread, ratio: over(subject.median, spread.median) }))
  ])
  const filled = columns.map((column) => fill(column, lines))
  const rows = Array.from({ length: lines.length + 2 }, (_, row) => filled.map((cells) => cells[row]))
  return rows.map((cells) => `| ${cells.join(" | ")} |`).join("\n")
}

interface Line extends Spread {
  readonly what?: string
  readonly who: string
  readonly unit?: string
  readonly ratio?: number | null
  readonly target?: string
}

interface Column {
  readonly head: string
  readonly right?: boolean
  readonly cell: (line: Line) => string
}

const columns: ReadonlyArray<Column> = [
  { head: "what", cell: ({ what }) => what ?? "" },
  { head: "who", cell: ({ who }) => who },
  { head: "min", right: true, cell: ({ min }) => quantity(min) },
  { head: "median", right: true, cell: ({ median }) => quantity(median) },
  { head: "max", right: true, cell: ({ max }) => quantity(max) },
  { head: "unit", cell: ({ unit }) => unit ?? "" },
  { head: "ratio", right: true, cell: ({ ratio }) => (ratio == null ? "" : `x ${quantity(ratio)}`) },
  { head: "target", cell: ({ target }) => target ?? "" }
]

// One column from head to foot, every cell of the same width.
const fill = ({ cell, head, right }: Column, lines: ReadonlyArray<Line>): ReadonlyArray<string> => {
  const cells = lines.map(cell)
  const width = Math.max(...[head, ...cells].map((text) => text.length))
  const pad = (text: string) => (right ? text.padStart(width) : text.padEnd(width))
  return [pad(head), right ? `${"-".repeat(width - 1)}:` : "-".repeat(width), ...cells.map(pad)]
}

const verdict = (entry: Case, median: number): string =>
  entry.target === null
    ? ""
    : `${entry.higherIsBetter ? ">=" : "<="} ${quantity(entry.target)} ${met(entry, median) ? "met" : "MISSED"}`

const met = ({ higherIsBetter, target }: Case, value: number): boolean | null =>
  target === null ? null : higherIsBetter ? value >= target : value <= target

const over = (value: number, baseline: number): number | null => (baseline > 0 ? value / baseline : null)

// Whole numbers where they say enough, three digits where they do not.
const quantity = (value: number): string =>
  value.toLocaleString("en-US", Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 })
