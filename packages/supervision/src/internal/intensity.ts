/**
 * The restart intensity window: OTP's `add_restart`, in milliseconds on a monotonic clock.
 *
 * A restart is recorded before it is attempted. It is allowed when the number of restarts that are at most `period` old,
 * this one included, is at most `intensity`. An entry exactly `period` old still counts, as in OTP.
 */
export interface Intensity {
  readonly maxRestarts: number
  readonly withinMillis: number
}

/** Records a restart at `now` in `window` (oldest first, changed in place) and tells whether it is allowed. */
export const addRestart = (window: Array<number>, now: number, intensity: Intensity): boolean => {
  window.push(now)
  const oldest = now - intensity.withinMillis
  let expired = 0
  while (expired < window.length && window[expired]! < oldest) expired++
  if (expired > 0) window.splice(0, expired)
  return window.length <= intensity.maxRestarts
}
