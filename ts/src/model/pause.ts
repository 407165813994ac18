/**
 * Long computations on one thread stop now and then, so that timers run, a page repaints and an
 * `AbortSignal` can fire at all.
 *
 * @module
 */

/** Milliseconds of work between two pauses: short enough for a page to feel alive. */
const WORK_SLICE_MS = 30;

let lastPause = 0;

/**
 * Lets waiting events run, if it is time to.
 *
 * @throws the signal's reason if it has been aborted
 */
export async function pauseForEvents(signal?: AbortSignal): Promise<void> {
  if (performance.now() - lastPause > WORK_SLICE_MS) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    lastPause = performance.now();
  }
  signal?.throwIfAborted();
}
