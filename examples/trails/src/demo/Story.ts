/** A story that is told on the terminal as it happens, and that remembers whether all of it went well. */

let scenes = 0
let broken = 0

const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

export const scene = (title: string): void => print(`\n${++scenes}. ${title}`)

export const tell = (text: string): void => print(`   ${text}`)

/** Something that must be so. */
export const check = (text: string, holds: boolean): void => {
  if (!holds) broken++
  print(`   ${holds ? "✓" : "✗ NOT SO:"} ${text}`)
}

/** The last line; true when everything that was checked was so. */
export const end = (): boolean => {
  print(broken === 0 ? "\nNothing was lost.\n" : `\n${broken} of the things above went wrong.\n`)
  return broken === 0
}

export const seconds = (millis: number): string => `${(millis / 1000).toFixed(1)} s`
