import { assert, describe, it } from "@effect/vitest"
import { Cron, Result, Schema } from "effect"
import type { CatchUp } from "../src/Crontab.ts"
import { type Calendar, due, parse } from "../src/internal/cronSchedule.ts"

const calendar = (expression: string, timeZone = "UTC"): Calendar => {
  const schedule = Result.getOrThrow(parse("entry", expression, timeZone))
  if (schedule._tag !== "Calendar") throw new Error(`${expression} has no instants`)
  return schedule
}

const problem = (expression: string, timeZone = "UTC"): string => {
  const parsed = parse("entry", expression, timeZone)
  return Result.isFailure(parsed) ? parsed.failure.message : "fine"
}

/** The instants from `from` (exclusive) until `to`, stepping forth. */
const forth = (schedule: Calendar, from: number, to: number): Array<number> => {
  const found: Array<number> = []
  for (let at = schedule.next(from); at <= to; at = schedule.next(at)) found.push(at)
  return found
}

/** The same, stepping back. */
const back = (schedule: Calendar, from: number, to: number): Array<number> => {
  const found: Array<number> = []
  for (let at = schedule.prev(to + 1); at > from; at = schedule.prev(at)) found.push(at)
  return found.toReversed()
}

const both = (expression: string, timeZone: string, from: string, to: string): ReadonlyArray<string> => {
  const schedule = calendar(expression, timeZone)
  const found = forth(schedule, Date.parse(from), Date.parse(to))
  assert.deepStrictEqual(back(schedule, Date.parse(from), Date.parse(to)), found)
  return found.map((at) => new Date(at).toISOString().slice(0, 16))
}

describe("an expression", () => {
  it("is refused with what is wrong in it", () => {
    for (const [expression, said] of [
      ["", "Invalid number of segments"],
      ["* * * *", "Invalid number of segments"],
      ["* * * * * * *", "Invalid number of segments"],
      ["60 * * * *", "between 0 and 59"],
      ["* 24 * * *", "between 0 and 23"],
      ["* * 0 * *", "between 1 and 31"],
      ["* * 32 * *", "between 1 and 31"],
      ["* * * 13 *", "between 1 and 12"],
      ["* * * * 8", "between 0 and 7"],
      ["5-1 * * * *", "Invalid value range"],
      ["*/0 * * * *", "greater than 0"],
      ["*/61 * * * *", "less than or equal to 59"],
      ["1.5 * * * *", "positive integer"],
      ["-1 * * * *", "positive integer"],
      ["1e1 * * * *", "positive integer"],
      ["a * * * *", "positive integer"],
      ["0-999999999 * * * *", "between 0 and 59"],
      ["*/99999999999999999999 * * * *", "Expected step value"],
      ["@every 5m", "there is only @yearly"],
      ["@__proto__", "there is only @yearly"],
      ["@toString", "there is only @yearly"],
      ["0 0 30 2 *", "never fires"],
      ["0 0 31 2,4,6,9,11 *", "never fires"],
      ["0 0 31 2 */1", "never fires"]
    ] as const) {
      assert.include(problem(expression), said, expression)
    }
  })

  it("is refused when its time zone does not exist", () => {
    for (const zone of ["", "Mars/Olympus", "Europe/Berlin\u0000", "x".repeat(1_000_000), "../UTC"]) {
      assert.include(problem("* * * * *", zone), "unknown time zone")
    }
  })

  it("is refused quickly, however long it is or however rare its dates are", () => {
    const hostile = [
      "1,".repeat(500_000),
      "* ".repeat(500_000),
      ",".repeat(1_000_000),
      " ".repeat(1_000_000),
      `${"0-59/1,".repeat(140)}0 * * * *`,
      "0 0 30 2 *"
    ]
    const before = performance.now()
    for (const expression of hostile) problem(expression)
    assert.isBelow(performance.now() - before, 1_000)
  })

  it("may be a nickname, in any case and between spaces", () => {
    for (const [nickname, same] of [
      ["@yearly", "0 0 1 1 *"],
      ["@annually", "0 0 1 1 *"],
      ["@monthly", "0 0 1 * *"],
      ["@weekly", "0 0 * * 0"],
      ["@daily", "0 0 * * *"],
      ["@midnight", "0 0 * * *"],
      [" @Hourly ", "0 * * * *"]
    ] as const) {
      const from = Date.parse("2026-01-01T00:00:00Z")
      const until = from + 400 * 86_400_000
      assert.deepStrictEqual(forth(calendar(nickname), from, until), forth(calendar(same), from, until))
    }
    assert.strictEqual(Result.getOrThrow(parse("entry", "@reboot", "UTC"))._tag, "Reboot")
  })

  it("knows names of days and months, Sunday as 0 and as 7, and seconds", () => {
    const from = "2026-11-23T00:00:00Z"
    assert.deepStrictEqual(both("0 9 * * 7", "UTC", from, "2026-12-01T00:00:00Z"), ["2026-11-29T09:00"])
    assert.deepStrictEqual(both("0 9 * * SUN", "UTC", from, "2026-12-01T00:00:00Z"), ["2026-11-29T09:00"])
    assert.deepStrictEqual(both("0 9 1 Dec *", "UTC", from, "2026-12-02T00:00:00Z"), ["2026-12-01T09:00"])
    assert.strictEqual(forth(calendar("*/10 * * * * *"), Date.parse(from), Date.parse(from) + 60_000).length, 6)
  })

  it("matches either of two restricted day fields, and both when one of them begins with a wildcard", () => {
    const from = "2026-11-01T00:00:00Z"
    const to = "2026-11-16T23:00:00Z"
    assert.deepStrictEqual(both("0 0 13 * 5", "UTC", from, to), ["2026-11-06T00:00", "2026-11-13T00:00"])
    assert.deepStrictEqual(both("0 0 15 * 5", "UTC", from, to), [
      "2026-11-06T00:00",
      "2026-11-13T00:00",
      "2026-11-15T00:00"
    ])
    assert.deepStrictEqual(both("0 0 */2 * 5", "UTC", from, to), ["2026-11-13T00:00"])
  })

  it("finds a date that is decades away", () => {
    assert.deepStrictEqual(both("0 0 29 2 */7", "Europe/Berlin", "2033-01-01T00:00:00Z", "2061-01-01T00:00:00Z"), [
      "2060-02-28T23:00"
    ])
  })
})

describe("daylight saving", () => {
  it("does not disturb entries with a wildcard hour: they follow real time", () => {
    // Berlin, 02:00 becomes 03:00, and 03:00 becomes 02:00.
    assert.deepStrictEqual(both("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z"), [
      "2026-03-29T00:30",
      "2026-03-29T01:30",
      "2026-03-29T02:30"
    ])
    assert.deepStrictEqual(both("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"), [
      "2026-10-25T00:30",
      "2026-10-25T01:30",
      "2026-10-25T02:30"
    ])
    // New York, the same at other instants.
    assert.deepStrictEqual(both("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", "2026-11-01T08:00:00Z"), [
      "2026-11-01T05:00",
      "2026-11-01T06:00",
      "2026-11-01T07:00",
      "2026-11-01T08:00"
    ])
    // Lord Howe, half an hour: 02:00 becomes 02:30, and 02:00 becomes 01:30.
    assert.deepStrictEqual(
      both("*/20 * * * *", "Australia/Lord_Howe", "2026-10-03T15:00:00Z", "2026-10-03T16:00:00Z"),
      ["2026-10-03T15:10", "2026-10-03T15:40", "2026-10-03T16:00"]
    )
    assert.deepStrictEqual(
      both("*/20 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", "2026-04-04T15:30:00Z"),
      ["2026-04-04T14:20", "2026-04-04T14:40", "2026-04-04T15:10", "2026-04-04T15:30"]
    )
  })

  it("has entries with fixed hours run once in a repeated hour, at its first pass", () => {
    assert.deepStrictEqual(both("0,30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"), [
      "2026-10-25T00:00",
      "2026-10-25T00:30",
      "2026-10-26T01:00",
      "2026-10-26T01:30"
    ])
    assert.deepStrictEqual(both("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z"), [
      "2026-11-01T05:30",
      "2026-11-02T06:30"
    ])
    assert.deepStrictEqual(both("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", "2026-04-06T00:00:00Z"), [
      "2026-04-04T14:45",
      "2026-04-05T15:15"
    ])
  })

  it("has entries with fixed hours run once directly after a skipped hour", () => {
    assert.deepStrictEqual(both("0,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z"), [
      "2026-03-29T01:00",
      "2026-03-30T00:00",
      "2026-03-30T00:30"
    ])
    assert.deepStrictEqual(both("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"), [
      "2026-03-29T01:00"
    ])
    assert.deepStrictEqual(both("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z"), [
      "2026-03-08T07:00",
      "2026-03-09T06:30"
    ])
    assert.deepStrictEqual(both("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-05T00:00:00Z"), [
      "2026-10-03T15:30",
      "2026-10-04T15:15"
    ])
    // Midnight does not exist in Santiago on the day the clock goes forward.
    assert.deepStrictEqual(both("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", "2026-09-07T12:00:00Z"), [
      "2026-09-06T04:00",
      "2026-09-07T03:00"
    ])
    // Samoa had no 30 December 2011.
    assert.deepStrictEqual(both("0 12 30 12 *", "Pacific/Apia", "2011-01-01T00:00:00Z", "2012-12-31T00:00:00Z"), [
      "2011-12-30T10:00",
      "2012-12-29T22:00"
    ])
  })

  /** What the rule says, minute by minute, by a clock that is made of nothing but `Intl`. */
  const byTheClock = (fields: Fields, timeZone: string, from: number, to: number): Array<number> => {
    const format = new Intl.DateTimeFormat("en-US", {
      timeZone,
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric"
    })
    const shown = (at: number): number => {
      const part = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, Number(value)]))
      return Date.UTC(part["year"] ?? 0, (part["month"] ?? 0) - 1, part["day"], part["hour"], part["minute"])
    }
    const matches = (wall: number) => {
      const date = new Date(wall)
      return (
        fields.minutes.includes(date.getUTCMinutes())
        && (fields.hours === undefined || fields.hours.includes(date.getUTCHours()))
        && (fields.weekdays === undefined || fields.weekdays.includes(date.getUTCDay()))
      )
    }
    const found: Array<number> = []
    // The latest time that the clock has shown: what it shows again is no news for an appointment.
    let latest = shown(from - 86_400_000)
    for (let at = from - 86_400_000; at <= to; at += 60_000) {
      const wall = shown(at)
      let hit = false
      if (fields.hours === undefined) hit = matches(wall)
      else for (let time = latest + 60_000; time <= wall; time += 60_000) hit ||= matches(time)
      latest = Math.max(latest, wall)
      if (hit && at > from) found.push(at)
    }
    return found
  }

  interface Fields {
    readonly minutes: ReadonlyArray<number>
    readonly hours: ReadonlyArray<number> | undefined
    readonly weekdays: ReadonlyArray<number> | undefined
  }

  const list = (min: number, max: number) =>
    Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: min, maximum: max }))).check(
      Schema.isMinLength(1),
      Schema.isMaxLength(4)
    )
  const Case = Schema.Struct({
    minutes: list(0, 59),
    hours: Schema.UndefinedOr(list(0, 4)),
    weekdays: Schema.UndefinedOr(list(0, 6)),
    change: Schema.Literals([
      "Europe/Berlin 2026-03-29T01:00Z",
      "Europe/Berlin 2026-10-25T01:00Z",
      "America/New_York 2026-03-08T07:00Z",
      "America/New_York 2026-11-01T06:00Z",
      "Australia/Lord_Howe 2026-10-03T15:30Z",
      "Australia/Lord_Howe 2026-04-04T15:00Z",
      "America/Santiago 2026-09-06T04:00Z",
      "America/Santiago 2026-04-05T03:00Z",
      "Antarctica/Casey 2023-03-08T16:00Z",
      "Asia/Kathmandu 2026-03-08T07:00Z"
    ])
  })

  it.prop(
    "is what the clock shows, in both directions and without repetition, for any entry",
    [Case],
    ([{ change, ...fields }]) => {
      const [timeZone = "", instant = ""] = change.split(" ")
      const middle = Date.parse(instant)
      const expression = `${fields.minutes.join(",")} ${fields.hours?.join(",") ?? "*"} * * ${fields.weekdays?.join(",") ?? "*"}`
      const schedule = calendar(expression, timeZone)
      const from = middle - 6 * 3_600_000
      const to = middle + 30 * 3_600_000
      const expected = byTheClock(fields, timeZone, from, to)
      assert.deepStrictEqual(forth(schedule, from, to), expected, `${expression} ${change}`)
      assert.deepStrictEqual(back(schedule, from, to), expected, `${expression} ${change}, back`)
    }
  )
})

describe("what is due", () => {
  const field = (min: number, max: number) =>
    Schema.Union([
      Schema.Literals(["*", "*/7", "*/15"]),
      Schema.Int.check(Schema.isBetween({ minimum: min, maximum: max }))
    ])
  const Case = Schema.Struct({
    minute: field(0, 59),
    hour: field(0, 23),
    day: Schema.Union([Schema.Literals(["*"]), Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 28 }))]),
    from: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 365 * 86_400 })),
    /** Seconds between the rounds of the loop: some long, as when everything was down. */
    rounds: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 * 86_400 }))).check(
      Schema.isMaxLength(8)
    ),
    catchUp: Schema.Union([
      Schema.Literals(["skip", "latest"]),
      Schema.Struct({ all: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 20 })) })
    ])
  })

  it.prop("is the sequence of effect/Cron, filtered by the policy, whatever the downtimes", [Case], ([tried]) => {
    const expression = `${tried.minute} ${tried.hour} ${tried.day} * *`
    const schedule = calendar(expression)
    const sequence = Cron.parseUnsafe(expression, "UTC")
    const catchUp: CatchUp = tried.catchUp
    let last = Date.UTC(2026, 0, 1) + tried.from * 1_000
    let now = last
    for (const seconds of tried.rounds) {
      now += seconds * 1_000
      const all: Array<number> = []
      for (const date of Cron.sequence(sequence, last)) {
        if (date.getTime() > now) break
        all.push(date.getTime())
      }
      const onTime = all.filter((at) => at >= now - 60_000)
      const wanted = catchUp === "skip" ? 0 : catchUp === "latest" ? 1 : catchUp.all
      const expected = all.slice(all.length - Math.min(all.length, Math.max(wanted, onTime.length)))
      const found = due(schedule, last, now, catchUp)
      assert.deepStrictEqual(found, expected, `${expression} until ${new Date(now).toISOString()}`)
      last = found.at(-1) ?? last
    }
  })

  it("is found from the end: years of downtime of an entry that fires each second cost nothing", () => {
    const schedule = calendar("* * * * * *", "Europe/Berlin")
    const now = Date.parse("2026-03-29T01:00:30.500Z")
    const before = performance.now()
    assert.strictEqual(due(schedule, 0, now, "skip").length, 60)
    assert.strictEqual(due(schedule, 0, now, "latest").length, 60)
    assert.strictEqual(due(schedule, 0, now, { all: 1_000 }).length, 1_000)
    assert.isBelow(performance.now() - before, 2_000)
  })

  it("is one instant for `latest` after a downtime, and none for `skip`", () => {
    const schedule = calendar("0 3 * * *")
    const last = Date.parse("2026-01-01T03:00:00Z")
    const now = Date.parse("2026-01-04T12:00:00Z")
    const iso = (catchUp: CatchUp) =>
      due(schedule, last, now, catchUp).map((at) => new Date(at).toISOString().slice(0, 13))
    assert.deepStrictEqual(iso("skip"), [])
    assert.deepStrictEqual(iso("latest"), ["2026-01-04T03"])
    assert.deepStrictEqual(iso({ all: 2 }), ["2026-01-03T03", "2026-01-04T03"])
    assert.deepStrictEqual(iso({ all: 99 }), ["2026-01-02T03", "2026-01-03T03", "2026-01-04T03"])
  })
})
