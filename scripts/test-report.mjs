// Counts what vitest's JSON report says.

/**
 * The report, as far as it is counted.
 *
 * @typedef {{
 *   numPassedTests: number,
 *   numFailedTests: number,
 *   testResults: ReadonlyArray<{ status: string, assertionResults: ReadonlyArray<{ status: string }> }>
 * }} Report
 */

/**
 * How many tests passed and failed, given the exit code of the run. A file that fails outside of its tests counts as one
 * failure, and so does a run that vitest calls failed because of an error that belongs to no file.
 *
 * @param {Report} report
 * @param {number | null} exitCode
 */
export const countTests = ({ numPassedTests, numFailedTests, testResults }, exitCode) => {
  const brokenFiles = testResults.filter(
    ({ status, assertionResults }) =>
      status === "failed" && assertionResults.every((assertion) => assertion.status !== "failed")
  ).length
  const failed = numFailedTests + brokenFiles
  return { passed: numPassedTests, failed: failed === 0 && exitCode !== 0 ? 1 : failed }
}
