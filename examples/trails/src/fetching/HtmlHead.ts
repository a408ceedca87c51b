/**
 * What a page says of itself in its head: a title and a description, as plain text.
 *
 * Reads as the bytes come in, and no further than it has to. What comes out may be stored and shown anywhere: entities
 * are decoded, white space is one space, and nothing is left that a database or a line of text cannot hold.
 */
import { Parser } from "htmlparser2"
import { TextDecoder } from "node:util"

export interface HtmlHead {
  readonly title: string | null
  readonly description: string | null
}

export interface HtmlHeadReader {
  /** Takes the next bytes of the page; false when no more of them are needed. */
  readonly write: (bytes: Uint8Array) => boolean
  /** What was found in all that was written. */
  readonly end: () => HtmlHead
}

/** How many characters of a title are kept. */
export const maxTitle = 300

/** How many characters of a description are kept. */
export const maxDescription = 1000

/** A reader for one page. The charset is what the server says: a page that begins with a byte order mark knows better. */
export const makeReader = (charset: string | undefined): HtmlHeadReader => {
  const { content, parser } = makeParser()
  let beginning: Uint8Array = new Uint8Array()
  let decoder: TextDecoder | undefined

  const parse = (bytes: Uint8Array, of: TextDecoder): boolean => {
    parser.write(of.decode(bytes, { stream: true }))
    return !content.complete
  }
  const begin = (): TextDecoder => (decoder = new TextDecoder(encodingOf(beginning, charset)))

  return {
    write: (bytes) => {
      if (decoder !== undefined) return parse(bytes, decoder)
      beginning = Buffer.concat([beginning, bytes])
      return beginning.length < declarationLength || parse(beginning, begin())
    },
    end: () => {
      if (decoder === undefined) parse(beginning, begin())
      parser.end()
      return {
        title: plain(content.title, maxTitle) ?? plain(content.socialTitle, maxTitle),
        description: plain(content.description, maxDescription) ?? plain(content.socialDescription, maxDescription)
      }
    }
  }
}

/** Where browsers look for a page's own word on its encoding: in so many bytes. */
const declarationLength = 1024

/** More of a text is not even collected. */
const maxRaw = 16_384

/** A head is flat. The parser looks through all open elements for each that is closed, so a deep page is an attack. */
const maxDepth = 100

const makeParser = () => {
  const content = {
    title: "",
    socialTitle: "",
    description: "",
    socialDescription: "",
    charset: undefined as string | undefined,
    complete: false
  }
  let inTitle = false
  let hasTitle = false
  // Drawings have titles of their own.
  let drawings = 0
  let depth = 0

  const complete = (): void => {
    content.complete = true
    // Nothing more is called, not even for what was written already.
    parser.pause()
  }

  const meta = (attributes: Readonly<Record<string, string>>): void => {
    const text = attributes["content"]?.slice(0, maxRaw) ?? ""
    content.charset ??= attributes["charset"] ?? (isContentType(attributes) ? charsetOf(text) : undefined)
    // Twice the same: the first is the page's, what follows may come from anything that was put into it.
    if (attributes["name"]?.toLowerCase() === "description") content.description ||= text
    switch (attributes["property"]?.toLowerCase()) {
      case "og:title":
        content.socialTitle ||= text
        break
      case "og:description":
        content.socialDescription ||= text
    }
  }

  const parser = new Parser({
    onopentag: (name, attributes) => {
      depth++
      if (name === "body" || depth > maxDepth) complete()
      else if (name === "svg") drawings++
      else if (name === "meta") meta(attributes)
      else if (name === "title" && drawings === 0 && !hasTitle) inTitle = hasTitle = true
    },
    ontext: (text) => {
      if (inTitle && content.title.length < maxRaw) content.title += text
    },
    onclosetag: (name) => {
      depth--
      if (name === "title") inTitle = false
      else if (name === "svg") drawings--
      else if (name === "head") complete()
    }
  })
  return { content, parser }
}

/** The encoding of a page that begins with these bytes: by its byte order mark, the server, the page, or habit. */
const encodingOf = (beginning: Uint8Array, charset: string | undefined): string => {
  const [first, second] = beginning
  if (first === 0xfe && second === 0xff) return "utf-16be"
  if (first === 0xff && second === 0xfe) return "utf-16le"
  if (first === 0xef && second === 0xbb) return "utf-8"
  if (charset !== undefined && isEncoding(charset)) return charset
  const { content, parser } = makeParser()
  parser.write(new TextDecoder("latin1").decode(beginning.subarray(0, declarationLength)))
  // A page that could be read so far is not in UTF-16, whatever it says.
  return content.charset !== undefined && isEncoding(content.charset) && !/^utf-?16/i.test(content.charset.trim())
    ? content.charset
    : "utf-8"
}

const isEncoding = (label: string): boolean => {
  try {
    return new TextDecoder(label).encoding !== ""
  } catch {
    return false
  }
}

const isContentType = (attributes: Readonly<Record<string, string>>): boolean =>
  attributes["http-equiv"]?.toLowerCase() === "content-type"

/** The charset that a content type names. */
export const charsetOf = (contentType: string): string | undefined =>
  /;\s*charset\s*=\s*["']?([^"';\s]+)/i.exec(contentType)?.[1]

/** Text of one line; none when nothing is left. */
const plain = (raw: string, maxLength: number): string | null => {
  const text = raw
    // Halves of a character, and marks that turn the direction of what follows them.
    .replace(/[\p{Cs}\p{Bidi_Control}]/gu, "")
    .replace(/[\s\p{Cc}]+/gu, " ")
    .trim()
  if (text === "") return null
  const characters = Array.from(text)
  return characters.length <= maxLength
    ? text
    : `${characters
        .slice(0, maxLength - 1)
        .join("")
        .trimEnd()}…`
}
