/**
 * Reads `.npy`, the array files of NumPy (format versions 1 to 3, described in numpy's `npy-format`).
 *
 *     6 bytes  \x93NUMPY     2 bytes  version     2 or 4 bytes  header length
 *     header   {'descr': '<f4', 'fortran_order': False, 'shape': (128, 256), }   padded with spaces
 *     data     row-major
 *
 * Only what a kernel dump holds: numbers, little-endian, row-major. Objects, strings, structures and
 * Fortran order are refused. Nothing is ever evaluated: the header is matched, not executed.
 *
 * @module
 */

import { FormatError } from '../../errors.js';
import { SAFETENSORS_DTYPES } from '../../io/safetensors.js';
import { type Dtype, elementCount, type Tensor } from './tensor.js';

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY

/** numpy has no bfloat16; ml_dtypes writes it as a 2-byte void, which `|V2` accepts. */
const DTYPES: Readonly<Record<string, Dtype>> = {
  '<f8': 'F64',
  '<f4': 'F32',
  '<f2': 'F16',
  '|V2': 'BF16',
  '<V2': 'BF16',
  '<i8': 'I64',
  '<i4': 'I32',
  '<i2': 'I16',
  '|i1': 'I8',
  '<u4': 'U32',
  '<u2': 'U16',
  '|u1': 'U8',
  '|b1': 'BOOL',
};

/**
 * Reads one array.
 *
 * @param bytes a whole file; the result shares its memory
 * @param path named in errors
 * @throws {FormatError} if it is not an npy file, is cut short, or holds something other than numbers
 */
export function readNpy(bytes: Uint8Array, path: string): Tensor {
  if (bytes.length < 10 || MAGIC.some((byte, i) => bytes[i] !== byte)) {
    throw new FormatError(path, 'offset 0', 'this is not an npy file');
  }
  const version = bytes[6];
  if (version < 1 || version > 3)
    throw new FormatError(path, 'offset 6', `npy version ${version} is unknown`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lengthBytes = version === 1 ? 2 : 4;
  if (bytes.length < 8 + lengthBytes) throw new FormatError(path, 'offset 8', 'the file ends in its header');
  const headerLength = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const dataOffset = 8 + lengthBytes + headerLength;
  if (dataOffset > bytes.length) {
    throw new FormatError(path, 'offset 8', `a header of ${headerLength} bytes is longer than the file`);
  }
  const header = new TextDecoder('latin1').decode(bytes.subarray(8 + lengthBytes, dataOffset));

  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const sizes = /'shape':\s*\(([\d\s,L]*)\)/.exec(header)?.[1];
  if (descr === undefined || order === undefined || sizes === undefined) {
    throw new FormatError(path, 'header', `descr, fortran_order and shape are needed, got ${header.trim()}`);
  }
  const dtype = Object.hasOwn(DTYPES, descr) ? DTYPES[descr] : undefined;
  if (!dtype) {
    const known = Object.keys(DTYPES).join(', ');
    throw new FormatError(path, 'descr', `"${descr}" is not one of the supported types ${known}`);
  }
  const shape = sizes
    .split(',')
    .map((size) => size.trim().replace('L', ''))
    .filter((size) => size !== '')
    .map(Number);
  if (order === 'True' && shape.length > 1) {
    const advice = 'save numpy.ascontiguousarray(array)';
    throw new FormatError(path, 'fortran_order', `column-major arrays are not read; ${advice}`);
  }
  const expected = elementCount(shape) * SAFETENSORS_DTYPES[dtype];
  if (!Number.isSafeInteger(expected) || expected !== bytes.length - dataOffset) {
    const found = bytes.length - dataOffset;
    throw new FormatError(
      path,
      'shape',
      `[${shape.join(', ')}] of ${dtype} takes ${expected} bytes, got ${found}`,
    );
  }
  return { dtype, shape, bytes: bytes.subarray(dataOffset) };
}
