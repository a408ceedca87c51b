// What a documentation program with `// => value` runs against. It knows how many results the program states, so that
// one that is never reached is an error too.
import { deepStrictEqual } from "node:assert"

/**
 * The assertion of a program that states that many results.
 *
 * @param {number} count
 */
export const assertionsOf = (count) => {
  /** @type {Set<number>} */
  const reached = new Set()
  process.on("exit", (code) => {
    if (code !== 0 || reached.size === count) return
    console.error(`${count - reached.size} of ${count} results were never reached`)
    process.exitCode = 1
  })
  return (/** @type {number} */ index, /** @type {unknown} */ actual, /** @type {unknown} */ expected) => {
    reached.add(index)
    deepStrictEqual(actual, expected)
  }
}
