/**
 * The system model of the paper (XQuant §3.4) as tables and curves: how many cached tokens can be rematerialized
 * while the memory moves the weights anyway.
 *
 * @module
 */

import {
  DEVICES,
  type Device,
  hiddenTokens,
  type RooflineForm,
  type RooflineLayer,
  ridgePoint,
  rooflineCost,
} from '../analysis/roofline.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { isMultiHead } from './plans.js';

/** Up to how many tokens one kind of layer hides its rematerialization. */
export interface HiddenLength {
  /** For people. */
  readonly label: string;
  readonly form: RooflineForm;
  readonly bits: number;
  /** Tokens by device name; null: always hidden. */
  readonly tokens: Readonly<Record<string, number | null>>;
}

/** One point of a curve: a decode step of one layer. */
export interface CurvePoint {
  readonly label: string;
  readonly tokens: number;
  /** Time to rematerialize, in seconds. */
  readonly compute: number;
  /** Time to move weights and cache, in seconds. */
  readonly memory: number;
}

/** See the module. */
export interface SystemModel {
  readonly device: Device;
  /** FLOPs a byte. */
  readonly ridgePoint: number;
  /** Every known device, and the one that was asked for. */
  readonly devices: readonly Device[];
  readonly hidden: readonly HiddenLength[];
  /** On `device`, at 2 bits. */
  readonly curves: readonly CurvePoint[];
}

/** Tokens of the curves: from 64, doubling. */
const CURVE_TOKENS = Array.from({ length: 13 }, (_, i) => 64 * 2 ** i);

/**
 * Evaluates the system model for the paper's layers and those of a model.
 *
 * @param name of the model
 * @see XQuant §3.4
 */
export function systemModel(device: Device, name: string, config: ModelConfig): SystemModel {
  const { hiddenSize: d, intermediateSize } = config;
  const { kvDim, queryDim } = derivedSizes(config);
  const weightBytes = 2 * d * (2 * queryDim + 2 * kvDim + 3 * intermediateSize);
  const own = { hiddenSize: d, kvDim, weightBytes };
  const ownForms: RooflineForm[] = isMultiHead(config) ? ['mha', 'mha-cl'] : ['gqa', 'gqa-cl'];
  const llama2 = { hiddenSize: 4096, kvDim: 4096 };
  const llama3 = { hiddenSize: 4096, kvDim: 1024 };
  const layers: { label: string; layer: Omit<RooflineLayer, 'bits'> }[] = [
    { label: 'Llama-2-7B, XQuant', layer: { form: 'mha', ...llama2 } },
    { label: 'Llama-2-7B, XQuant-CL', layer: { form: 'mha-cl', ...llama2 } },
    { label: 'Llama-3.1-8B, XQuant', layer: { form: 'gqa', ...llama3 } },
    { label: 'Llama-3.1-8B, XQuant-CL', layer: { form: 'gqa-cl', ...llama3 } },
    ...ownForms.map((form) => ({
      label: `${name}, ${form.endsWith('cl') ? 'XQuant-CL' : 'XQuant'}`,
      layer: { form, ...own },
    })),
  ];
  const known: readonly Device[] = Object.values(DEVICES);
  const devices = known.some((each) => each.name === device.name) ? known : [...known, device];
  return {
    device,
    ridgePoint: ridgePoint(device),
    devices,
    hidden: layers.flatMap(({ label, layer }) =>
      [2, 3, 4].map((bits) => ({
        label,
        form: layer.form,
        bits,
        tokens: Object.fromEntries(
          devices.map((each) => {
            const tokens = hiddenTokens({ ...layer, bits }, each);
            return [each.name, Number.isFinite(tokens) ? Math.round(tokens) : null];
          }),
        ),
      })),
    ),
    curves: layers.flatMap(({ label, layer }) =>
      CURVE_TOKENS.map((tokens) => {
        const cost = rooflineCost({ ...layer, bits: 2 }, device, tokens);
        return { label, tokens, compute: cost.computeSeconds, memory: cost.memorySeconds };
      }),
    ),
  };
}
