/** Messages that wait to leave this node, encoded: as many as fit, and then the oldest are given up. */

export class Outbox {
  private readonly maxBytes: number
  private entries: Array<string> = []
  private sizes: Array<number> = []
  /** Where they begin: what is before was given up. */
  private first = 0
  private bytes = 0
  private lost = 0

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes
  }

  get size(): number {
    return this.entries.length - this.first
  }

  /** How many were given up since this was asked last. */
  takeLost(): number {
    const { lost } = this
    this.lost = 0
    return lost
  }

  add(entry: string, bytes: number): void {
    this.entries.push(entry)
    this.sizes.push(bytes)
    this.bytes += bytes
    while (this.bytes > this.maxBytes) this.drop()
  }

  /** One that never comes in is given up as well. */
  refuse(): void {
    this.lost++
  }

  /** The oldest that fit into so many bytes, and at least one if there is one. */
  take(bytes: number): Array<string> {
    const { entries, first, sizes } = this
    let end = first
    let taken = 0
    while (end < entries.length && (end === first || taken + (sizes[end] ?? 0) <= bytes)) taken += sizes[end++] ?? 0
    const batch = entries.slice(first, end)
    this.first = end
    this.bytes -= taken
    this.compact()
    return batch
  }

  clear(): void {
    this.lost += this.size
    this.entries = []
    this.sizes = []
    this.first = 0
    this.bytes = 0
  }

  private drop(): void {
    this.bytes -= this.sizes[this.first] ?? 0
    this.first++
    this.lost++
    this.compact()
  }

  /** Lets go of what has left, once that is most of it. */
  private compact(): void {
    if (this.first * 2 < this.entries.length) return
    this.entries = this.entries.slice(this.first)
    this.sizes = this.sizes.slice(this.first)
    this.first = 0
  }
}
