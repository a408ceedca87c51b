/** What a run says: rows for programs, a Markdown table for people. */
import type { Figure, Measured, Spread } from "./Bench.ts"

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
  /** What `ratio` is to reach, `null` when nothing is promised. */
  readonly ratioTarget: number | null
  readonly ratioMet: boolean | null
}

export const rows = (suite: string, measured: ReadonlyArray<Measured>): ReadonlyArray<Row> =>
  measured.flatMap(({ baselines, figure, subject: { median: value } }) => {
    const { name, target, unit } = figure
    const row = (baseline: string | null, ratio: number | null): Row => {
      const ratioTarget = promisedRatio(figure, baseline)
      return {
        suite,
        name,
        value,
        unit,
        baseline,
        ratio,
        target,
        met: met(figure, target, value),
        ratioTarget,
        ratioMet: met(figure, ratioTarget, ratio)
      }
    }
    if (baselines.length === 0) return [row(null, null)]
    return baselines.map(([baseline, { median }]) => row(baseline, over(value, median)))
  })

/** A Markdown table, one line per contender; a ratio is how many times the baseline's figure the subject's is. */
export const table = (measured: ReadonlyArray<Measured>): string => {
  const lines = measured.flatMap(({ baselines, figure, subject, who }): ReadonlyArray<Line> => [
    {
      what: figure.name,
      who,
      ...subject,
      unit: figure.unit,
      target: verdict(figure, "", figure.target, subject.median)
    },
    ...baselines.map(([who, spread]) => {
      const ratio = over(subject.median, spread.median)
      return { who, ...spread, ratio, target: verdict(figure, "x ", promisedRatio(figure, who), ratio) }
    })
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

const verdict = (figure: Figure, sign: string, target: number | null, value: number | null): string =>
  target === null
    ? ""
    : `${figure.higherIsBetter ? ">=" : "<="} ${sign}${quantity(target)} ${met(figure, target, value) ? "met" : "MISSED"}`

const met = ({ higherIsBetter }: Figure, target: number | null, value: number | null): boolean | null =>
  target === null ? null : value === null ? false : higherIsBetter ? value >= target : value <= target

const promisedRatio = ({ ratios }: Figure, baseline: string | null): number | null =>
  (baseline === null ? undefined : ratios?.[baseline]) ?? null

const over = (value: number, baseline: number): number | null => (baseline > 0 ? value / baseline : null)

// Whole numbers where they say enough, three digits where they do not.
const quantity = (value: number): string =>
  value.toLocaleString("en-US", Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 })
