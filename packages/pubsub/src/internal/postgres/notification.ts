/**
 * What travels in a notification: a packet, or, where that is too large, the word of where it is to be found.
 */

/**
 * How many bytes a notification may have. PostgreSQL takes 7,999.
 */
export const maxBytes = 7_900

/** A packet that was stored: whose it is, its number, and for whom, if not for all. */
export interface Attached {
  readonly from: string
  readonly seq: number
  readonly to: string | undefined
}

export const encodeAttached = ({ from, seq, to }: Attached): string =>
  `${prefix}${JSON.stringify(from)},"seq":${seq}${to === undefined ? "" : `,"to":${JSON.stringify(to)}`}}`

/** Undefined where it is something else. */
export const decodeAttached = (text: string): Attached | undefined => {
  if (!text.startsWith(prefix)) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== "object" || value === null || !("from" in value) || !("seq" in value)) return undefined
  const { from, seq } = value
  const to = "to" in value ? value.to : undefined
  return typeof from === "string"
    && typeof seq === "number"
    && Number.isSafeInteger(seq)
    && seq >= 1
    && (to === undefined || typeof to === "string")
    ? { from, seq, to }
    : undefined
}

const prefix = '{"kind":"attached","from":'

/** JSON in which every character is one byte, for databases whose encoding does not have all characters. */
export const toAscii = (json: string): string =>
  // Outside of ASCII are only the contents of JSON's texts, where an escape means the same.
  json.replaceAll(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
