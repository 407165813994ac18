/**
 * Where this code runs.
 *
 * @module
 */

/** Whether this is Node, where there are files, worker threads, and modules by the name of `node:`. */
export function inNode(): boolean {
  return typeof process === 'object' && typeof process.versions?.node === 'string';
}
