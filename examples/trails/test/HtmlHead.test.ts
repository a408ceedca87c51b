import { assert, describe, it } from "@effect/vitest"
import * as HtmlHead from "../src/fetching/HtmlHead.ts"

/** What is found in a page that comes in pieces of so many bytes. */
const read = (page: string | Uint8Array, charset?: string, piece = 5) => {
  const bytes = typeof page === "string" ? Buffer.from(page) : page
  const reader = HtmlHead.makeReader(charset)
  for (let at = 0; at < bytes.length && reader.write(bytes.subarray(at, at + piece)); at += piece);
  return reader.end()
}

describe("HtmlHead", () => {
  it("finds title and description as plain text: entities decoded, white space collapsed", () => {
    assert.deepStrictEqual(
      read(`<!doctype html><HTML><head>
        <title lang=en>\n  Fish &amp; Chips\t&#8212; caf&eacute; </title>
        <meta name="Description" content="All about &quot;fish&quot;,&#10;  and chips.">`),
      { title: "Fish & Chips — café", description: `All about "fish", and chips.` }
    )
  })

  it("falls back on what a page tells to social networks", () => {
    const social = `<meta property="og:title" content="Social"><meta property="og:description" content="Also social">`
    assert.deepStrictEqual(read(social), { title: "Social", description: "Also social" })
    assert.deepStrictEqual(read(`${social}<title>Own</title><meta name=description content=Mine>`), {
      title: "Own",
      description: "Mine"
    })
    assert.deepStrictEqual(read(`${social}<title> </title><meta name=description content="">`), {
      title: "Social",
      description: "Also social"
    })
  })

  it("finds nothing where there is nothing", () => {
    for (const page of [
      "",
      "x",
      "<",
      "<title",
      "<title></title>",
      "<p>no head at all",
      "\0\0\0",
      "<meta name=description>"
    ]) {
      assert.deepStrictEqual(read(page), { title: null, description: null }, page)
    }
  })

  it("takes the title of the page for the title, and none of a drawing, a script, a comment or its text", () => {
    for (const before of [
      "<svg><title>Not it</title></svg>",
      "<script>'<title>Not it</title>'</script>",
      "<style><title>Not it</title></style>",
      "<!-- <title>Not it</title> -->"
    ]) {
      assert.strictEqual(read(`<head>${before}<title>It</title><title>Not it</title>`).title, "It", before)
    }
    assert.isNull(read("<head></head><title>Not it</title>").title)
    assert.isNull(read("<body><title>Not it</title>").title)
  })

  it("says when it needs no more", () => {
    const reader = HtmlHead.makeReader(undefined)
    assert.isTrue(reader.write(Buffer.from("<head><title>A</title>")))
    assert.isFalse(reader.write(Buffer.from(`${" ".repeat(2000)}</head>`)))
    assert.strictEqual(reader.end().title, "A")
  })

  it("leaves nothing that a line of text or a database cannot hold", () => {
    assert.strictEqual(read("<title>a\0b&#0;c&#x202E;d\u0007e\u2066f</title>").title, "a b\ufffdcd ef")
    assert.strictEqual(read("<title>\ud83d half &#xD800; half</title>").title?.isWellFormed(), true)
  })

  it("keeps so many characters, and no half of one", () => {
    const { description, title } = read(
      `<title>${"😀".repeat(1000)}</title><meta name=description content="${"word ".repeat(20_000)}">`,
      "utf-8",
      4096
    )
    assert.strictEqual(title, `${"😀".repeat(HtmlHead.maxTitle - 1)}…`)
    assert.isAtMost(Array.from(description ?? "").length, HtmlHead.maxDescription)
    assert.match(description ?? "", /word…$/)
    assert.strictEqual(read(`<title>${"😀".repeat(300)}</title>`).title, "😀".repeat(300))
  })

  it("reads every encoding that browsers know: by byte order mark, by the server's word, by the page's own", () => {
    const latin = Buffer.from("<title>café</title>", "latin1")
    assert.strictEqual(read(latin, "ISO-8859-1").title, "café")
    assert.strictEqual(read(Buffer.concat([Buffer.from("<meta charset='latin1'>"), latin])).title, "café")
    const contentType = `<meta http-equiv="content-type" content="text/html; charset=shift_jis">`
    assert.strictEqual(read(Buffer.from(`${contentType}<title>\x83\x65</title>`, "latin1")).title, "テ")
    assert.strictEqual(read(Buffer.from("\ufeff<title>café</title>"), "latin1").title, "café")
    assert.strictEqual(read(Buffer.from("\ufeff<title>café</title>", "utf16le"), "utf-8").title, "café")
    assert.strictEqual(read("<title>café</title>").title, "café")
  })

  it("reads on when the encoding is nonsense, a lie or broken", () => {
    assert.strictEqual(read("<title>café</title>", "no-such-charset").title, "café")
    assert.strictEqual(read("<meta charset=no-such-charset><title>café</title>").title, "café")
    assert.strictEqual(read("<meta charset=utf-16><title>café</title>").title, "café")
    assert.strictEqual(
      read(Buffer.from("<title>caf\xe9 \xff\xfe</title>", "latin1"), "utf-8").title,
      "caf\ufffd \ufffd\ufffd"
    )
  })

  it("needs no more than a moment for a page that was made to keep it busy", () => {
    const size = 1024 * 1024
    for (const evil of ["<a>", "<a><b></c>", "<meta ", "<!--", "<title>", "<title></", "&amp", "<svg>", "<p></div>"]) {
      const page = Buffer.from(evil.repeat(size / evil.length))
      const before = process.cpuUsage()
      read(page, undefined, 65_536)
      const { system, user } = process.cpuUsage(before)
      // Microseconds; a tenth of it is usual, a thousand times as much was the danger.
      assert.isBelow(user + system, 3_000_000, evil)
    }
  })
})
