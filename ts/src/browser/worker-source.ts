/**
 * The text of the engine's worker. The build of the browser bundle puts it here (scripts/build-browser.mjs): a
 * worker that is made from text needs no file of its own that a bundler would have to find, and a page of another
 * origin may start it.
 *
 * @module
 */

/** Empty in the sources. */
export const WORKER_SOURCE: string = '';
