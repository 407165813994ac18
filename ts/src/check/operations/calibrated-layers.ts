/**
 * Layers of a calibrated cache, one block of tokens each: what `calibrated-encode` and `calibrated-decode` share.
 *
 * @module
 */

import { Transform } from '../../cache/transform.js';
import { ConfigError, ShapeError } from '../../errors.js';
import { toFloat16Bits } from '../../numerics/float16.js';
import { add, type Matrix, matrix, row } from '../../numerics/matrix.js';
import { type ChannelBits, dequantizeSymmetric, type SymmetricMatrix } from '../../quant/symmetric.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Expected } from '../compare/compare.js';
import { expectedLayerStack } from '../compare/expected.js';
import { F32_ROUNDOFF, productBound, rowNorms } from '../compare/tolerance.js';
import type { OptionDoc, TensorDoc } from '../operation.js';
import { toChannelBits } from './symmetric.js';

/** Options of both operations. */
export const CALIBRATED_OPTIONS: readonly OptionDoc[] = [
  { name: 'predict', values: 'layers below that a layer is predicted from: 0 | 1 | 2' },
  { name: 'layers', values: 'count of layers' },
  { name: 'width', values: 'channels of the carrier' },
  { name: 'groupSize', values: 'tokens per scale (128)', optional: true },
];

/** The plan, an input of both operations. */
export const PLAN_INPUTS: readonly TensorDoc[] = [
  { name: 'bits', role: 'input', dtype: 'U8', shape: '[layers, width], each 0, 1, 2, 3, 4 or 8' },
  { name: 'decode', role: 'input', dtype: 'F32', shape: '[layers, width, width]' },
  { name: 'offset', role: 'input', dtype: 'F32', shape: '[layers, width]' },
  {
    name: 'predict_1_<layer>',
    role: 'input',
    dtype: 'F32',
    shape: '[width, width]',
    when: 'from layer 1 on, with predict 1 and 2',
  },
  {
    name: 'predict_2_<layer>',
    role: 'input',
    dtype: 'F32',
    shape: '[width, width]',
    when: 'from layer 2 on, with predict 2',
  },
];

/** Float outputs of both operations. */
export const LAYER_OUTPUTS: readonly TensorDoc[] = [
  { name: 'y', role: 'output', dtype: 'F32', shape: '[layers, tokens, width]', comparison: 'bound' },
  { name: 'x_hat', role: 'output', dtype: 'F32', shape: '[layers, tokens, width]', comparison: 'bound' },
];

/** The plan of a case. */
export interface CalibratedLayers {
  readonly transforms: readonly Transform[];
  readonly bits: readonly (readonly ChannelBits[])[];
  readonly groupSize: number;
  readonly width: number;
}

/**
 * Reads the plan.
 *
 * @param encodes E of every layer; without them they are the inverses of D
 */
export function calibratedLayers(inputs: CaseInputs, encodes?: readonly Matrix[]): CalibratedLayers {
  const layers = inputs.count('layers');
  const width = inputs.count('width');
  const predict = inputs.number('predict');
  if (![0, 1, 2].includes(predict)) throw new ConfigError('predict', predict, '0, 1 or 2');
  const decodes = inputs.stack('decode');
  const offsets = inputs.matrixOf('offset', layers, width);
  if (decodes.length !== layers || decodes.some(({ rows, columns }) => rows !== width || columns !== width)) {
    const { operation } = inputs.case;
    throw new ShapeError(operation, 'decode', [layers, width, width], inputs.tensor('decode').shape);
  }
  const { shape, data } = inputs.integers('bits');
  if (shape.length !== 2 || shape[0] !== layers || shape[1] !== width) {
    throw new ShapeError(inputs.case.operation, 'bits', [layers, width], shape);
  }
  const half = ({ rows, columns, data: values }: Matrix) => ({
    rows,
    columns,
    float16: Uint16Array.from(values, toFloat16Bits),
  });
  return {
    width,
    groupSize: inputs.count('groupSize', 128),
    bits: decodes.map((_, layer) => toChannelBits(data.slice(layer * width, (layer + 1) * width))),
    transforms: decodes.map((decode, layer) =>
      Transform.of({
        decode: half(decode),
        encode: encodes && half(encodes[layer]),
        predict: Array.from({ length: Math.min(predict, layer) }, (_, p) =>
          half(inputs.matrixOf(`predict_${p + 1}_${layer}`, width, width)),
        ),
        offset: row(offsets, layer),
        importance: new Float32Array(width),
      }),
    ),
  };
}

/** Coordinates below a layer, the nearest first. */
export function below(coordinates: readonly Matrix[], { predictTransposed }: Transform): Matrix[] {
  return predictTransposed.map((_, p) => coordinates[coordinates.length - 1 - p]);
}

/** y of a layer from what is stored of it. */
export function reconstruct(
  transform: Transform,
  coordinates: readonly Matrix[],
  stored: SymmetricMatrix,
  bits: readonly ChannelBits[],
): Matrix {
  const predicted = transform.predict(below(coordinates, transform), stored.rows);
  return add(predicted, dequantizeSymmetric(stored, bits));
}

/** Expected y and carrier of all layers. */
export function expectedLayers(
  plan: CalibratedLayers,
  coordinates: readonly Matrix[],
): { y: Expected; x_hat: Expected } {
  const { bounds, rowErrors } = coordinateBounds(plan, coordinates);
  const carriers = coordinates.map((y, layer) => plan.transforms[layer].decode(y));
  const carrierBounds = coordinates.map((y, layer) =>
    productBound(y, plan.transforms[layer].decodeTransposed, (token) => rowErrors[layer][token]),
  );
  return { y: expectedLayerStack(coordinates, bounds), x_hat: expectedLayerStack(carriers, carrierBounds) };
}

/** How far y may be off: the product of each prediction, what the layers below are off, and the sums. */
function coordinateBounds(
  { transforms }: CalibratedLayers,
  coordinates: readonly Matrix[],
): { bounds: ((index: number) => number)[]; rowErrors: Float64Array[] } {
  const rowErrors: Float64Array[] = [];
  const bounds = coordinates.map((y, layer) => {
    const { predictTransposed, offset } = transforms[layer];
    const products = predictTransposed.map((weights, p) =>
      productBound(coordinates[layer - 1 - p], weights, (token) => rowErrors[layer - 1 - p][token]),
    );
    const bound = (index: number) =>
      products.reduce((sum, product) => sum + product(index), 4 * F32_ROUNDOFF * Math.abs(y.data[index])) +
      4 * F32_ROUNDOFF * Math.abs(offset[index % y.columns]);
    rowErrors.push(
      rowNorms(
        matrix(
          y.rows,
          y.columns,
          Float32Array.from(y.data, (_, i) => bound(i)),
        ),
      ),
    );
    return bound;
  });
  return { bounds, rowErrors };
}
