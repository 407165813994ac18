/**
 * CRC-32 as in PNG, gzip and Ethernet (polynomial 0x04c11db7, reflected): finds damage in a file, not forgery.
 *
 * @module
 */

const POLYNOMIAL = 0xedb88320;

/** Remainders of all bytes, and of all bytes followed by 1, 2 and 3 zero bytes: four bytes are taken at a time. */
const TABLES = makeTables();

function makeTables(): Uint32Array[] {
  const tables = Array.from({ length: 4 }, () => new Uint32Array(256));
  for (let byte = 0; byte < 256; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) remainder = (remainder >>> 1) ^ (remainder & 1 ? POLYNOMIAL : 0);
    tables[0][byte] = remainder;
  }
  for (let byte = 0; byte < 256; byte++) {
    for (let zeros = 1; zeros < 4; zeros++) {
      const before = tables[zeros - 1][byte];
      tables[zeros][byte] = (before >>> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

/** @returns 32 bits, unsigned */
export function crc32(bytes: Uint8Array): number {
  const [last, third, second, first] = TABLES;
  let crc = 0xffffffff;
  let at = 0;
  for (; at + 4 <= bytes.length; at += 4) {
    crc ^= bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    crc = first[crc & 0xff] ^ second[(crc >>> 8) & 0xff] ^ third[(crc >>> 16) & 0xff] ^ last[crc >>> 24];
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ last[(crc ^ bytes[at]) & 0xff];
  return ~crc >>> 0;
}
