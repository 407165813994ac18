/**
 * The one rounding rule of this package: to the nearest integer, ties to even.
 *
 * JavaScript's `Math.round` sends ties towards +infinity and C's `round` away from zero; IEEE 754,
 * PyTorch, CUDA's `rint` and WebAssembly's `f32.nearest` send them to the even neighbour, and so do we.
 *
 * @module
 */

// Adding and subtracting 2^52 leaves no fraction bits in an f64, and the hardware's own
// round-to-nearest-even decides what becomes of them.
const TWO_TO_52 = 2 ** 52;

/**
 * Rounds to the nearest integer, ties to the even one: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2.
 *
 * @param value any f64 with `|value| < 2^51`
 */
export function roundHalfEven(value: number): number {
  return value >= 0 ? value + TWO_TO_52 - TWO_TO_52 : value - TWO_TO_52 + TWO_TO_52;
}
