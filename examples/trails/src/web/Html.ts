/**
 * HTML that escapes: whatever is interpolated into `html` is text, unless it was made by `html` itself.
 *
 * ```ts
 * html`<p title="${title}">${name}</p>` // safe for every title and name
 * ```
 *
 * Escaping cannot save an attribute without quotes, so such a template throws. Addresses need more than escaping
 * (`javascript:`): use `link`.
 */

/** Markup that needs no escaping any more. */
export class Html {
  readonly markup: string

  constructor(markup: string) {
    this.markup = markup
  }

  toString(): string {
    return this.markup
  }
}

/** What may stand in a template. `undefined`, `null` and `false` are nothing; the items of a list follow each other. */
export type Content = Html | string | number | undefined | null | false | ReadonlyArray<Content>

export const html = (strings: TemplateStringsArray, ...contents: ReadonlyArray<Content>): Html => {
  let markup = strings[0] ?? ""
  contents.forEach((content, index) => {
    if (/=\s*$/.test(markup)) throw new Error(`put quotes around the attribute at the end of: ${markup.slice(-80)}`)
    markup += render(content) + (strings[index + 1] ?? "")
  })
  return new Html(markup)
}

/** A link to a page of the web; the bare text when the address is not one that a link may have. */
export const link = (address: string, text: string): Html =>
  /^https?:\/\//i.test(address)
    ? html`<a href="${address}" rel="noopener noreferrer nofollow">${text}</a>`
    : html`${text}`

const escape = (text: string): string => text.replace(/[&<>"'`]/g, (character) => `&#${character.charCodeAt(0)};`)

const render = (content: Content): string => {
  if (content === undefined || content === null || content === false) return ""
  if (content instanceof Html) return content.markup
  if (typeof content === "string" || typeof content === "number") return escape(String(content))
  return content.map(render).join("")
}
