/**
 * The cache of one layer in a snapshot: section LAYR, the bytes of its tensors one after another.
 *
 * @module
 */

import {
  exactFormat,
  type LayerLayout,
  type SealedFormat,
  sinkName,
  sinksOf,
  type TensorLayout,
  type WindowTensor,
} from '../cache/layout.js';
import type { CacheOptions } from '../cache/options.js';
import type { LayerState, SealedBlock, StoredMatrix } from '../cache/state.js';
import { groupedSizes } from '../quant/grouped.js';
import type { NuqFormat, NuqMatrix } from '../quant/nuq.js';
import { packedBytes } from '../quant/pack.js';
import { symmetricSizes } from '../quant/symmetric.js';
import type { Part, PartReader } from './snapshot-sections.js';

/** Everything that a layer holds, in the order in which it is written. */
export function layerParts({ blocks, window }: LayerState): Part[] {
  return [...blocks, window].flatMap((tensors) => Object.values(tensors).flatMap(matrixParts));
}

function matrixParts(stored: StoredMatrix): Part[] {
  if ('packed' in stored) return [stored.packed, stored.scales, stored.mins];
  if ('rowCodes' in stored) return nuqParts(stored);
  if ('channelCodes' in stored) return [stored.channelCodes, stored.scales];
  return ['float16' in stored ? stored.float16 : stored.data];
}

/** Rows of `kvquant`; how many outliers there are is nowhere else. */
function nuqParts(rows: NuqMatrix): Part[] {
  const parts = [rows.rowCodes, rows.centers, rows.radii];
  if (rows.outlierStarts.length === 0) return parts;
  const { outlierStarts, outlierChannels, outlierValues } = rows;
  return [...parts, outlierStarts, Uint32Array.of(outlierValues.length), outlierChannels, outlierValues];
}

/**
 * Reads the tensors of a layer.
 *
 * @param layout of the layer
 * @param length tokens in the cache
 * @throws {FormatError} if there are more or fewer bytes, a number is not finite, or outliers are out of order
 */
export function readLayer(
  reader: PartReader,
  { sealed, window }: LayerLayout,
  options: CacheOptions,
  length: number,
): LayerState {
  const { residualWindow } = options;
  const format = exactFormat(options);
  const exact = ({ name, columns }: WindowTensor, rows: number, label: string, place: string): NamedTensor =>
    readTensor(reader, { name: label, columns, format }, rows, `${place}, ${name}`);
  const blockCount = Math.floor(length / residualWindow);
  const windowTokens = length - blockCount * residualWindow;
  const blocks: SealedBlock[] = [];
  for (let block = 0; block < blockCount; block++) {
    const place = `block ${block}`;
    const sinks = sinksOf(options, block);
    const tensors = [
      ...(sinks > 0 ? window.map((tensor) => exact(tensor, sinks, sinkName(tensor.name), place)) : []),
      ...sealed.map((tensor) =>
        readTensor(reader, tensor, residualWindow - sinks, `${place}, ${tensor.name}`),
      ),
    ];
    blocks.push(Object.fromEntries(tensors));
  }
  const rest = window.map((tensor) => exact(tensor, windowTokens, tensor.name, 'window'));
  reader.end();
  return { length, blocks, window: Object.fromEntries(rest) as LayerState['window'] };
}

type NamedTensor = readonly [string, StoredMatrix];

function readTensor(
  reader: PartReader,
  { name, columns, format }: TensorLayout<SealedFormat>,
  rows: number,
  place: string,
): NamedTensor {
  if (format === 'f16') return [name, reader.float16Matrix(rows, columns, place)];
  if (format === 'f32') return [name, reader.float32Matrix(rows, columns, place)];
  if ('rowRanges' in format) return [name, readNuq(reader, columns, format, rows, place)];
  if ('tokenBits' in format) throw new TypeError('a layout without a plan');
  if ('channelBits' in format) {
    const { groups, codeBytes } = symmetricSizes(rows, format);
    const channelCodes = reader.bytes(codeBytes);
    const scales = reader.finiteFloat16(groups, `${place}, scales`);
    return [name, { rows, columns, groupSize: format.groupSize, channelCodes, scales }];
  }
  const { bits, groupSize, grouping } = format;
  const sizes = groupedSizes(rows, columns, format);
  const packed = reader.bytes(sizes.packedBytes);
  const scales = reader.finiteFloat16(sizes.groups, `${place}, scales`);
  const mins = reader.finiteFloat16(sizes.groups, `${place}, mins`);
  return [name, { rows, columns, bits, groupSize, grouping, packed, scales, mins }];
}

function readNuq(
  reader: PartReader,
  columns: number,
  { bits, outlierFraction, rowRanges }: NuqFormat,
  rows: number,
  place: string,
): NuqMatrix {
  const ranges = rowRanges ? rows : 0;
  const isSparse = outlierFraction > 0;
  const rowCodes = reader.bytes(rows * packedBytes(columns, bits));
  const centers = reader.finiteFloat16(ranges, `${place}, centers`);
  const radii = reader.finiteFloat16(ranges, `${place}, radii`);
  const outlierStarts = reader.uint32(isSparse ? rows : 0);
  const outliers = isSparse ? reader.uint32(1)[0] : 0;
  const outlierChannels = reader.uint16(outliers);
  const outlierValues = reader.finiteFloat16(outliers, `${place}, outliers`);
  for (let token = 0; token < outlierStarts.length; token++) {
    const start = outlierStarts[token];
    const end = token + 1 < rows ? outlierStarts[token + 1] : outliers;
    if (end < start || end > outliers || (token === 0 && start !== 0)) {
      reader.refuse(place, `outliers of token ${token} are from ${start} to ${end}`);
    }
    for (let i = start; i < end; i++) {
      const channel = outlierChannels[i];
      if (channel >= columns || (i > start && channel <= outlierChannels[i - 1])) {
        reader.refuse(place, `outlier ${i} is at channel ${channel}`);
      }
    }
  }
  return { rows, columns, bits, rowCodes, centers, radii, outlierStarts, outlierChannels, outlierValues };
}
