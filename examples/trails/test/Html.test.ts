import { assert, describe, it } from "@effect/vitest"
import { html, link } from "../src/web/Html.ts"

describe("html", () => {
  it("escapes what is interpolated, in text and in attributes", () => {
    const evil = `<script>alert("1")</script> & 'x' \`y\``
    const markup = html`<p title="${evil}">${evil}</p>`.markup
    assert.notMatch(markup.slice(3, -4), /<|"[^>]*"[^>]*"|'|`|&(?!#)/)
    assert.include(markup, "&#60;script&#62;alert(&#34;1&#34;)&#60;/script&#62; &#38; &#39;x&#39; &#96;y&#96;")
  })

  it("takes markup of its own as it is, lists one after the other, and nothing for nothing", () => {
    const items = ["a", "<b>"].map((item) => html`<li>${item}</li>`)
    assert.strictEqual(html`<ul>${items}</ul>`.markup, "<ul><li>a</li><li>&#60;b&#62;</li></ul>")
    assert.strictEqual(html`${undefined}${null}${false}${0}${["x", [1]]}`.markup, "0x1")
  })

  it("does not take an object that looks like markup for markup", () => {
    const pretender = JSON.parse(`{"markup":"<script>"}`)
    assert.throws(() => html`<p>${pretender}</p>`)
  })

  it("refuses an attribute without quotes, which no escaping could save", () => {
    assert.throws(() => html`<a href=${"x onclick=alert(1)"}>x</a>`, /quotes/)
  })

  it("links to pages of the web only", () => {
    assert.strictEqual(
      link("https://example.org/?a=1&b=2", "A & B").markup,
      `<a href="https://example.org/?a=1&#38;b=2" rel="noopener noreferrer nofollow">A &#38; B</a>`
    )
    for (const address of ["javascript:alert(1)", "JavaScript:alert(1)", " https://x", "data:text/html,x", "//x"]) {
      assert.strictEqual(link(address, "text").markup, "text", address)
    }
  })
})
