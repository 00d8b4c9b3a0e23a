// Timings for tests and rehearsals, as User Timing entries: a name and two times, nothing about a set.
//   cold: the login's submit to the first set on the screen; next-set: Enter to the next set on the screen;
//   echo: a score key to its mark on the screen; ack: an event sent to the server's answer.

const LIMIT = 4000; // entries of a name: a window may stay open for days

/** @param {string} name @param {number} start @param {number} [end] milliseconds as performance.now() gives them */
export function measure(name, start, end = performance.now()) {
  if (performance.getEntriesByName(name).length >= LIMIT) performance.clearMeasures(name);
  performance.measure(name, { start, end: Math.max(start, end) });
}

/**
 * Call `then` with the time at which everything drawn so far is on the screen: the task after the next frame.
 * @param {(at: number) => void} then
 */
export function painted(then) {
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      then(performance.now());
    };
    port2.postMessage(null);
  });
}
