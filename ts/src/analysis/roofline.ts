/**
 * The system model: how many cached tokens a layer can rematerialize while the memory is busy anyway (XQuant §3.4).
 *
 * One decode step of one layer takes `FLOPs / peak` to compute and `bytes / bandwidth` to move. As long as the
 * first is the smaller, rematerialization costs no time. Both grow with the number l of cached tokens; the
 * weights of the layer have to be moved whatever l is, and that is the slack which hides the work:
 *
 *     FLOPs(l) / peak <= bytes(l) / bandwidth     hidden up to l = weight bytes / (FLOPs a token / P - bytes a token)
 *
 * with the ridge point P = peak FLOP/s over bandwidth. A multiply-add counts as 2 FLOPs. The paper's 2.3K (MHA) and
 * 40.6K (GQA) come out; its typesetting drops fractions, and the GQA number comes without the factor 2 on the
 * latents that the text has (with it: 41.6K).
 *
 * @module
 */

import { ConfigError } from '../errors.js';

/** A machine, as far as the model knows it. */
export interface Device {
  readonly name: string;
  /** Peak of dense f16 matrix products, FLOP/s. */
  readonly peakFlops: number;
  /** Memory bandwidth, bytes/s. */
  readonly bandwidth: number;
  /** Source of the two numbers. */
  readonly source: string;
}

/** Devices by the name a user types. */
export const DEVICES = {
  h100: {
    name: 'H100 PCIe',
    peakFlops: 756e12,
    bandwidth: 2e12,
    source: 'the paper: 756 TFLOP/s, 2 TB/s',
  },
  rtx4090: {
    name: 'GeForce RTX 4090',
    peakFlops: 165.2e12,
    bandwidth: 1.008e12,
    source: "maker's data sheet: 165.2 TFLOP/s dense f16 with f32 accumulation, 1008 GB/s",
  },
  'm3-max': {
    name: 'Apple M3 Max, 40-core GPU',
    peakFlops: 14.1e12,
    bandwidth: 0.4e12,
    source: 'estimate: 40 cores x 128 lanes x 2 x 1.38 GHz (the maker gives no figure); its 400 GB/s',
  },
} as const satisfies Record<string, Device>;

/** A key of {@link DEVICES}. */
export type DeviceName = keyof typeof DEVICES;

/** The way in which keys and values are rebuilt. */
export type RooflineForm = 'mha' | 'gqa' | 'mha-cl' | 'gqa-cl';

/** One layer of a model and its cache. */
export interface RooflineLayer {
  readonly form: RooflineForm;
  /** d */
  readonly hiddenSize: number;
  /** d / g */
  readonly kvDim: number;
  /** e, bits of a cached element; group parameters are not counted, as in the paper. */
  readonly bits: number;
  /** Bytes of the layer's weights, without the small matrices of the latent forms. Default: the paper's layers. */
  readonly weightBytes?: number;
  /** Bits of the accumulator, for the CL forms. Default 4, as in the paper. */
  readonly accumulatorBits?: number;
}

/** The cost of one decode step of one layer. */
export interface RooflineCost {
  /** Floating-point operations of rematerialization. */
  readonly flops: number;
  /** Bytes moved: cache, accumulator, weights. */
  readonly bytes: number;
  /** flops / peak, in seconds. */
  readonly computeSeconds: number;
  /** bytes / bandwidth, in seconds. */
  readonly memorySeconds: number;
}

/**
 * Peak over bandwidth: operations a device does in the time of moving a byte.
 *
 * @returns FLOPs a byte; 378 for the paper's H100
 */
export function ridgePoint({ peakFlops, bandwidth }: Device): number {
  return peakFlops / bandwidth;
}

/**
 * The device of a name, or one of given numbers.
 *
 * @param name a key of {@link DEVICES}, or `custom:TFLOPS:GBPS`
 * @throws {ConfigError} if it is neither
 */
export function parseDevice(name: string): Device {
  if (Object.hasOwn(DEVICES, name)) return DEVICES[name as DeviceName];
  const [, flops, bandwidth] = /^custom:(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)$/.exec(name) ?? [];
  if (!(Number(flops) > 0 && Number(bandwidth) > 0)) {
    const allowed = `${Object.keys(DEVICES).join(', ')} or custom:TFLOPS:GBPS`;
    throw new ConfigError('device', name, allowed);
  }
  return {
    name: `${flops} TFLOP/s, ${bandwidth} GB/s`,
    peakFlops: Number(flops) * 1e12,
    bandwidth: Number(bandwidth) * 1e9,
    source: 'given',
  };
}

/**
 * FLOPs and bytes of a decode step, apart into what grows with the cached tokens and what does not.
 *
 * @see XQuant §3.4
 */
export function rooflineTerms(layer: RooflineLayer): {
  flopsPerToken: number;
  bytesPerToken: number;
  fixedBytes: number;
} {
  const { form, hiddenSize: d, kvDim, bits, accumulatorBits = 4 } = layer;
  // Weights of one layer in f16: 12 d^2 numbers in Llama-2-7B, 13 d^2 in the paper's GQA model.
  const weights = layer.weightBytes ?? (form.startsWith('mha') ? 24 : 26) * d * d;
  const accumulator = (accumulatorBits / 8) * d;
  switch (form) {
    case 'mha':
      return { flopsPerToken: 4 * d * kvDim, bytesPerToken: (bits / 8) * d, fixedBytes: weights };
    case 'gqa':
      return {
        flopsPerToken: 4 * kvDim * kvDim,
        bytesPerToken: (bits / 8) * kvDim,
        fixedBytes: weights + 4 * kvDim * kvDim,
      };
    case 'mha-cl':
      return {
        flopsPerToken: 4 * d * kvDim + 2 * d,
        bytesPerToken: (bits / 8) * d + accumulator,
        fixedBytes: weights,
      };
    case 'gqa-cl':
      return {
        flopsPerToken: 8 * d * kvDim + 2 * d,
        bytesPerToken: (bits / 8) * 2 * kvDim + accumulator,
        fixedBytes: weights,
      };
  }
}

/**
 * The cost of a decode step on a device.
 *
 * @param tokens in the cache
 */
export function rooflineCost(layer: RooflineLayer, device: Device, tokens: number): RooflineCost {
  const { flopsPerToken, bytesPerToken, fixedBytes } = rooflineTerms(layer);
  const flops = flopsPerToken * tokens;
  const bytes = bytesPerToken * tokens + fixedBytes;
  return {
    flops,
    bytes,
    computeSeconds: flops / device.peakFlops,
    memorySeconds: bytes / device.bandwidth,
  };
}

/**
 * The number of cached tokens up to which memory traffic hides rematerialization.
 *
 * @returns tokens, not rounded; infinite if a token takes longer to move than to rebuild
 * @see XQuant §3.4
 */
export function hiddenTokens(layer: RooflineLayer, device: Device): number {
  const { flopsPerToken, bytesPerToken, fixedBytes } = rooflineTerms(layer);
  const slope = flopsPerToken / ridgePoint(device) - bytesPerToken;
  return slope > 0 ? fixedBytes / slope : Number.POSITIVE_INFINITY;
}
