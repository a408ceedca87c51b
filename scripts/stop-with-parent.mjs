// Preloaded by `npm start`: asks this process to stop when the process that started it is gone.
//
// npm starts scripts through a shell and passes SIGTERM to that shell, which dies of it without telling its own child.
// Without this module the app would go on holding its port and its database after `npm start` was killed.
const parent = process.ppid
const everyMillis = 250

const timer = setInterval(() => {
  if (process.ppid === parent) return
  clearInterval(timer)
  process.kill(process.pid, "SIGTERM")
}, everyMillis)

timer.unref()
