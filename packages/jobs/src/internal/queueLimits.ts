/**
 * What may be said of a queue, and how the table `queues` has it.
 */
import { Duration, Effect, Option } from "effect"
import { InvalidQueue, type Limits, type Options, type Rate, type Target } from "../Queue.ts"
import { problemOf } from "./json.ts"

/** The node of rows that are about every node. */
export const everywhere = ""

/** Limits as columns: `null` for what was not said, `none` for no limit. */
interface Columns {
  readonly global: number | null
  readonly partition: number | null
  readonly rate: number | null
  readonly rateMillis: number | null
  readonly partitionRate: number | null
  readonly partitionRateMillis: number | null
}

/** "No limit, whatever the code says", as a limit. */
const none = -1

/** The limits that hold: what was said at run time, else what the code says. Null is no limit. */
export const effective = (queue: string): string => `
  nullif(coalesce(${queue}.global_limit, ${queue}.code_global_limit), ${none}) as global,
  nullif(coalesce(${queue}.partition_limit, ${queue}.code_partition_limit), ${none}) as partition,
  nullif(coalesce(${queue}.rate_limit, ${queue}.code_rate_limit), ${none}) as rate,
  (case when ${queue}.rate_limit is null then ${queue}.code_rate_period_ms else ${queue}.rate_period_ms end)::float8
    as rate_millis,
  nullif(coalesce(${queue}.partition_rate_limit, ${queue}.code_partition_rate_limit), ${none}) as partition_rate,
  (case when ${queue}.partition_rate_limit is null then ${queue}.code_partition_rate_period_ms
    else ${queue}.partition_rate_period_ms end)::float8 as partition_rate_millis`

/** Whether any of them holds. */
export const isLimited = (queue: string): string => `
  (${["global_limit", "partition_limit", "rate_limit", "partition_rate_limit"]
    .map((limit) => `coalesce(${queue}.${limit}, ${queue}.code_${limit}, ${none}) <> ${none}`)
    .join(" or ")})`

/** The name of a queue, checked. */
export const checkName = (queue: string): Effect.Effect<void, InvalidQueue> => {
  const problem = nameProblem(queue)
  return problem === undefined ? Effect.void : Effect.fail(new InvalidQueue({ queue: readable(queue), problem }))
}

/** The node that a change is for. */
export const checkTarget = (queue: string, target: Target | undefined): Effect.Effect<string, InvalidQueue> => {
  const node = target?.node
  if (node === undefined) return Effect.succeed(everywhere)
  const problem =
    typeof node !== "string"
      ? "is not a text"
      : node === ""
        ? "is empty: leave it out for every node"
        : node.length > longestNode
          ? `is longer than ${longestNode} characters`
          : problemOf(node)
  return problem === undefined
    ? Effect.succeed(node)
    : Effect.fail(new InvalidQueue({ queue, problem: `the name of the node ${problem}` }))
}

/** A number of jobs. */
export const checkCount = (queue: string, what: string, count: number): Effect.Effect<number, InvalidQueue> =>
  Number.isInteger(count) && count >= 0 && count <= largest
    ? Effect.succeed(count)
    : Effect.fail(
        new InvalidQueue({ queue, problem: `${what} is ${String(count)}: use a whole number from 0 to ${largest}` })
      )

/** Limits as columns, checked. */
export const checkLimits = Effect.fnUntraced(function* (queue: string, limits: Limits) {
  const count = (what: string, limit: number | null | undefined) =>
    limit === undefined ? Effect.succeed(null) : limit === null ? Effect.succeed(none) : checkCount(queue, what, limit)
  const rate = yield* checkRate(queue, "rate", limits.rate)
  const partitionRate = yield* checkRate(queue, "ratePerPartition", limits.ratePerPartition)
  const columns: Columns = {
    global: yield* count("global", limits.global),
    partition: yield* count("perPartition", limits.perPartition),
    rate: rate.limit,
    rateMillis: rate.millis,
    partitionRate: partitionRate.limit,
    partitionRateMillis: partitionRate.millis
  }
  return columns
})

/** What code says of a queue, checked; its limits as columns, in which no limit and nothing said are the same. */
export const checkOptions = Effect.fnUntraced(function* (queue: string, options: Options) {
  yield* checkName(queue)
  yield* checkCount(queue, "limit", options.limit)
  const columns = yield* checkLimits(queue, options)
  const said = (limit: number | null) => (limit === none ? null : limit)
  return {
    ...columns,
    global: said(columns.global),
    partition: said(columns.partition),
    rate: said(columns.rate),
    partitionRate: said(columns.partitionRate)
  }
})

const checkRate = Effect.fnUntraced(function* (queue: string, what: string, rate: Rate | null | undefined) {
  if (rate === undefined) return { limit: null, millis: null }
  if (rate === null) return { limit: none, millis: null }
  const limit = yield* checkCount(queue, `${what}.limit`, rate.limit)
  const invalid = (problem: string) => new InvalidQueue({ queue, problem: `${what}.${problem}` })
  if (limit === 0) return yield* invalid("limit is 0: pause the queue instead")
  const period = Option.getOrUndefined(Duration.fromInput(rate.period))
  if (period === undefined) return yield* invalid("period is not a duration")
  const millis = Duration.toMillis(period)
  if (millis >= 1 && millis <= longestPeriodMillis) return { limit, millis: Math.round(millis) }
  return yield* invalid(`period is ${Duration.format(period)}: use 1 millisecond to 100 years`)
})

const nameProblem = (name: string): string | undefined => {
  if (typeof name !== "string" || name === "") return "the name is empty"
  if (name.length > longestName) return `the name is longer than ${longestName} characters`
  const problem = problemOf(name)
  return problem === undefined ? undefined : `the name ${problem}`
}

/** Of a name that is no name, as much as an error needs. */
const readable = (name: unknown): string => String(name).slice(0, longestName).toWellFormed()

const largest = 2_147_483_647
const longestName = 127
const longestNode = 255
const longestPeriodMillis = 100 * 365.25 * 24 * 60 * 60 * 1_000
