/** The Walsh-Hadamard rotation: numerics/hadamard.ts. Bit for bit, since every output is a fixed tree of sums. */

/** Rotates one block of `size` (a power of two) in place. */
// @ts-ignore: decorator
@inline
function rotateBlock(block: usize, size: i32): void {
  const end = block + ((size as usize) << 2);
  const normalize = (1.0 / Math.sqrt(size as f64)) as f32;
  if (size < 4) {
    if (size == 2) {
      const a = load<f32>(block);
      const b = load<f32>(block, 4);
      store<f32>(block, (a + b) * normalize);
      store<f32>(block, (a - b) * normalize, 4);
    } else {
      store<f32>(block, load<f32>(block) * normalize);
    }
    return;
  }
  // Strides 1 and 2 stay inside a register: lanes [a b c d] -> [a+b a-b c+d c-d] -> [.. , ..]
  // x - y is x + (-y), exactly, so a change of sign and one addition do both outputs.
  const signs1 = i32x4(0, 0x80000000, 0, 0x80000000);
  const signs2 = i32x4(0, 0, 0x80000000, 0x80000000);
  for (let p = block; p < end; p += 16) {
    let v = v128.load(p);
    v = f32x4.add(i32x4.shuffle(v, v, 0, 0, 2, 2), v128.xor(i32x4.shuffle(v, v, 1, 1, 3, 3), signs1));
    v = f32x4.add(i32x4.shuffle(v, v, 0, 1, 0, 1), v128.xor(i32x4.shuffle(v, v, 2, 3, 2, 3), signs2));
    v128.store(p, v);
  }
  const bytes = (size as usize) << 2;
  for (let stride: usize = 16; stride < bytes; stride <<= 1) {
    for (let i = block; i < end; i += 2 * stride) {
      const stop = i + stride;
      for (let p = i; p < stop; p += 16) {
        const a = v128.load(p);
        const b = v128.load(p + stride);
        v128.store(p, f32x4.add(a, b));
        v128.store(p + stride, f32x4.sub(a, b));
      }
    }
  }
  const factor = f32x4.splat(normalize);
  for (let p = block; p < end; p += 16) v128.store(p, f32x4.mul(v128.load(p), factor));
}

/** Rotates one vector in place, in blocks of the largest power of two that divides `columns`. */
export function rotateVector(vector: usize, columns: i32): void {
  const size = columns & -columns;
  const end = vector + ((columns as usize) << 2);
  for (let block = vector; block < end; block += (size as usize) << 2) rotateBlock(block, size);
}

/** `hadamardInto` for each row, in place. */
export function hadamardRows(x: usize, rows: i32, columns: i32): void {
  for (let r = 0; r < rows; r++) rotateVector(x + (((r * columns) as usize) << 2), columns);
}
