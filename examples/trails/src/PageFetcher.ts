/**
 * What a page of the web says of itself: its title and its description, fetched over HTTP.
 *
 * The address comes from a user, and the answer from anybody. So only the public internet is spoken to, whatever a name
 * or a redirect leads to; an answer has a limited time, size and number of redirects; and of the page nothing is read
 * beyond its head. A failure says whether it is worth trying again.
 */
import { pipeThroughDuplex } from "@effect/platform-node/NodeStream"
import { ByteSize, Context, DateTime, Duration, Effect, Layer, Option, Schema, Stream } from "effect"
import { HttpClient, type HttpClientError, type HttpClientResponse } from "effect/http"
import { createGunzip } from "node:zlib"
import * as GuardedHttp from "./fetching/GuardedHttp.ts"
import * as HtmlHead from "./fetching/HtmlHead.ts"

/** How far a fetch goes, and where. */
export interface Options extends GuardedHttp.Options {
  /** For everything, redirects included. Defaults to 10 seconds. */
  readonly timeLimit?: Duration.Input | undefined
  /** How much of a page is read, sent or unpacked; what comes after it is left. Defaults to 1 MiB. */
  readonly sizeLimit?: ByteSize.ByteSize | undefined
  /** How many redirects are followed. Defaults to 5. */
  readonly maxRedirects?: number | undefined
}

/** The page cannot be had now. It may be there later. */
export class PageUnavailable extends Schema.TaggedError<PageUnavailable>()("PageUnavailable", {
  url: Schema.String,
  reason: Schema.Literals(["timeout", "unreachable", "server-error", "too-many-requests", "broken-answer"]),
  detail: Schema.String,
  /** When the server said how long to wait; at most a day. */
  retryAfterSeconds: Schema.optionalKey(Schema.Int),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `${this.url} is not available: ${this.detail}. Try again later.`
  }
}

/** There is no page at the address that could be read, and trying again will not change that. */
export class PageUnreadable extends Schema.TaggedError<PageUnreadable>()("PageUnreadable", {
  url: Schema.String,
  reason: Schema.Literals([
    "address-refused",
    "not-http",
    "client-error",
    "not-html",
    "unknown-encoding",
    "too-many-redirects"
  ]),
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.url} cannot be read: ${this.detail}. Check the address.`
  }
}

export class PageFetcher extends Context.Service<
  PageFetcher,
  {
    /** A page that says nothing of itself has neither title nor description. */
    readonly fetch: (url: string) => Effect.Effect<HtmlHead.HtmlHead, PageUnavailable | PageUnreadable>
  }
>()("trails/PageFetcher") {
  static readonly layer = (options: Options = {}) =>
    Layer.effect(PageFetcher, make(options)).pipe(Layer.provide(GuardedHttp.layer(options)))
}

const make = Effect.fnUntraced(function* (options: Options) {
  // An answer that is not read to its end is cut off when its scope closes.
  const client = HttpClient.withScope(yield* HttpClient.HttpClient)
  const timeLimit = Duration.fromInputUnsafe(options.timeLimit ?? "10 seconds")
  const sizeLimit = ByteSize.toNumberUnsafe(options.sizeLimit ?? ByteSize.mebibytes(1))
  const maxRedirects = options.maxRedirects ?? 5

  const ask = (url: URL) =>
    Effect.gen(function* () {
      const response = yield* Effect.mapError(client.get(url, { headers: requestHeaders }), noAnswer(url))
      const location = redirects.has(response.status) ? response.headers["location"] : undefined
      if (location !== undefined) return yield* httpUrl(location, url)
      yield* checkStatus(url, response)
      return yield* readHead(url, response, sizeLimit)
    }).pipe(Effect.scoped)

  const follow = Effect.fnUntraced(function* (first: URL) {
    let url = first
    for (let asked = 0; asked <= maxRedirects; asked++) {
      const answer = yield* ask(url)
      if (!(answer instanceof URL)) return answer
      url = answer
    }
    const detail = `there are more than ${maxRedirects} redirects`
    return yield* new PageUnreadable({ url: first.href, reason: "too-many-redirects", detail })
  })

  return PageFetcher.of({
    fetch: Effect.fn("PageFetcher.fetch")((address: string) =>
      Effect.flatMap(httpUrl(address), follow).pipe(
        Effect.timeoutOrElse({
          duration: timeLimit,
          orElse: () =>
            new PageUnavailable({
              url: address,
              reason: "timeout",
              detail: `there was no whole answer within ${Duration.format(timeLimit)}`
            })
        }),
        // The ids of our traces are nobody else's business.
        Effect.provideService(HttpClient.TracerPropagationEnabled, false)
      )
    )
  })
})

const requestHeaders = {
  accept: "text/html, application/xhtml+xml",
  "accept-encoding": "gzip",
  "user-agent": "Trails/0.1 (reads title and description of a captured page)"
} as const

const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

const httpUrl = (address: string, base?: URL): Effect.Effect<URL, PageUnreadable> => {
  const url = URL.parse(address, base?.href)
  if (url !== null && (url.protocol === "http:" || url.protocol === "https:")) return Effect.succeed(url)
  const detail = base === undefined ? "it is no http or https address" : "it redirects to no http or https address"
  return Effect.fail(new PageUnreadable({ url: base?.href ?? address, reason: "not-http", detail }))
}

const noAnswer =
  (url: URL) =>
  ({ cause, message }: HttpClientError.HttpClientError): PageUnavailable | PageUnreadable => {
    if (cause instanceof GuardedHttp.AddressRefused) {
      return new PageUnreadable({ url: url.href, reason: "address-refused", detail: cause.detail })
    }
    const detail = cause instanceof Error ? cause.message : message
    return new PageUnavailable({ url: url.href, reason: "unreachable", detail: `nobody answers (${detail})`, cause })
  }

const checkStatus = Effect.fnUntraced(function* (url: URL, { headers, status }: HttpClientResponse.HttpClientResponse) {
  if (status >= 200 && status < 300) return
  const detail = `the server answers with status ${status}`
  const reason = status === 429 ? "too-many-requests" : "server-error"
  // 408 and 425 ask to be tried again as well.
  if (status >= 500 || status === 429 || status === 408 || status === 425) {
    const retryAfterSeconds = yield* secondsUntil(headers["retry-after"])
    return yield* new PageUnavailable({ url: url.href, reason, detail, ...retryAfterSeconds })
  }
  return yield* new PageUnreadable({ url: url.href, reason: "client-error", detail })
})

/** The `Retry-After` header: a number of seconds, or a date. */
const secondsUntil = (header = "") =>
  Effect.map(DateTime.now, (now) => {
    const seconds = /^\d+$/.test(header)
      ? Option.some(Number(header))
      : Option.map(DateTime.make(header), (date) => Math.ceil(Duration.toSeconds(DateTime.distance(now, date))))
    return Option.match(seconds, {
      onNone: () => ({}),
      onSome: (value) => ({ retryAfterSeconds: Math.min(Math.max(value, 0), 86_400) })
    })
  })

const readHead = Effect.fnUntraced(function* (
  url: URL,
  response: HttpClientResponse.HttpClientResponse,
  sizeLimit: number
) {
  const contentType = response.headers["content-type"] ?? ""
  if (!/^\s*(?:text\/html|application\/xhtml\+xml)\s*(?:;|$)/i.test(contentType)) {
    const detail = `the answer is ${contentType === "" ? "of no known type" : contentType.slice(0, 80)}, not HTML`
    return yield* new PageUnreadable({ url: url.href, reason: "not-html", detail })
  }
  const encoding = response.headers["content-encoding"]?.trim().toLowerCase() || "identity"
  if (encoding !== "identity" && encoding !== "gzip" && encoding !== "x-gzip") {
    const detail = `the answer is encoded as ${encoding.slice(0, 80)}, which was not asked for`
    return yield* new PageUnreadable({ url: url.href, reason: "unknown-encoding", detail })
  }

  const broken = (cause: unknown) =>
    new PageUnavailable({ url: url.href, reason: "broken-answer", detail: "the answer broke off or is damaged", cause })
  const sent = response.stream.pipe(Stream.mapError(broken), upTo(sizeLimit))
  const unpacked =
    encoding === "identity" ? sent : pipeThroughDuplex(sent, { evaluate: () => createGunzip(), onError: broken })
  const reader = HtmlHead.makeReader(HtmlHead.charsetOf(contentType))
  yield* Stream.runForEachWhile(upTo(sizeLimit)(unpacked), (bytes) => Effect.sync(() => reader.write(bytes)))
  return reader.end()
})

const upTo =
  (size: number) =>
  <E>(bytes: Stream.Stream<Uint8Array, E>): Stream.Stream<Uint8Array, E> =>
    Stream.suspend(() => {
      let left = size
      return bytes.pipe(
        Stream.map((chunk) => {
          const part = chunk.subarray(0, left)
          left -= part.length
          return part
        }),
        Stream.takeUntil(() => left === 0)
      )
    })
