/**
 * Bytes of a file as numbers.
 *
 * @module
 */

/**
 * The bytes in a buffer of their own, at offset 0, so that any typed array can view them.
 *
 * Not `bytes.slice().buffer`: `slice` of a Node `Buffer`, which also is a `Uint8Array`, is a view on the
 * whole of a larger buffer.
 *
 * @param bytes read
 * @returns fresh
 */
export function alignedCopy(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}
