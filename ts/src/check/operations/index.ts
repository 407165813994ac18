/**
 * The table of everything that can be checked. An operation is one file of this folder and one line here.
 *
 * @module
 */

import { ConfigError } from '../../errors.js';
import type { Operation } from '../operation.js';
import { allocate } from './allocate.js';
import { attend } from './attend.js';
import { calibratedDecode } from './calibrated-decode.js';
import { calibratedEncode } from './calibrated-encode.js';
import { crossLayerDecode } from './cl-decode.js';
import { crossLayerEncode } from './cl-encode.js';
import { decode } from './decode.js';
import { layer } from './layer.js';
import { logits } from './logits.js';
import { metric } from './metric.js';
import { pack } from './pack.js';
import { perplexity } from './perplexity.js';
import { quantize } from './quantize.js';
import { rematerialize } from './rematerialize.js';
import { rope } from './rope.js';
import { rotate } from './rotate.js';
import { svd } from './svd.js';
import { symmetric } from './symmetric.js';
import { tokens } from './tokens.js';

/** Every operation, from the smallest to whole models. */
export const OPERATIONS: readonly Operation[] = [
  quantize,
  pack,
  symmetric,
  rotate,
  rope,
  svd,
  metric,
  allocate,
  rematerialize,
  crossLayerEncode,
  crossLayerDecode,
  calibratedEncode,
  calibratedDecode,
  attend,
  layer,
  tokens,
  logits,
  decode,
  perplexity,
];

/**
 * The operation of a name.
 *
 * @throws {ConfigError} if there is none; the message lists all
 */
export function findOperation(name: string): Operation {
  const found = OPERATIONS.find((operation) => operation.name === name);
  if (!found)
    throw new ConfigError('operation', name, `one of ${OPERATIONS.map((each) => each.name).join(', ')}`);
  return found;
}
