/**
 * A family of models as data: how its files are recognized, and what they say beyond sizes.
 *
 * The sizes that all families share are read in hugging-face-config.ts and gguf-config.ts; a family adds values of
 * `ModelConfig`. Adding a family is one file here and a line in index.ts, unless its forward pass needs a new value.
 *
 * @module
 */

import type { LayerConfig, ModelConfig, RopeLayout } from '../../model/config.js';
import type { LayerRole } from '../../model/tensors.js';
import type { GgufMetadata } from '../gguf-metadata.js';
import type { JsonReader } from '../json-reader.js';

/** The sizes that are read before a family is asked. */
export type BaseConfig = Pick<
  ModelConfig,
  'hiddenSize' | 'numHiddenLayers' | 'numAttentionHeads' | 'headDim' | 'maxPositionEmbeddings' | 'ropeTheta'
>;

/** Values of a family. `slidingWindow` is that of all layers, where `layers` does not say more. */
export type FamilyConfig = Partial<ModelConfig> & { readonly slidingWindow?: number };

/** Values that a config.json of a family leaves out; transformers has them in the class of its config. */
export interface ConfigDefaults {
  readonly ropeTheta?: number;
  readonly rmsNormEps?: number;
  readonly headDim?: number;
  readonly tieWordEmbeddings?: boolean;
}

/** Tensors of a layer that a file stores as one, row after row. */
export interface FusedTensor {
  /** Name in the file, after the prefix of the layer. */
  readonly name: string;
  readonly roles: readonly LayerRole[];
}

/** A family of models. */
export interface Family {
  /** For people; `architecture` of the config. */
  readonly name: string;
  /** Models of the family, for people. */
  readonly models: string;
  /** Values of `model_type` in config.json. */
  readonly modelTypes: readonly string[];
  /** Values of `general.architecture` in GGUF files. */
  readonly ggufArchitectures: readonly string[];
  /** Layout of RoPE: llama.cpp permutes rows of some families so that neighbours rotate together. */
  readonly ropeLayout: { readonly huggingFace: RopeLayout; readonly gguf: RopeLayout };
  readonly defaults?: ConfigDefaults;
  /** The activation as config.json calls it. Default silu. */
  readonly hiddenAct?: string;
  /** Whether a Hugging Face folder stores norm gains less one; llama.cpp adds it. */
  readonly gainsFromOne?: boolean;
  /** Tensors that are stored as one. */
  readonly fused?: { readonly huggingFace: readonly FusedTensor[]; readonly gguf: readonly FusedTensor[] };
  /** Factors of GGUF metadata that `fromGguf` reads; any other family is refused where a file has one. */
  readonly ggufFactors?: readonly string[];
  /** What config.json says beyond sizes. */
  fromConfig?(json: JsonReader, base: BaseConfig): FamilyConfig;
  /** What a GGUF file says beyond sizes. */
  fromGguf?(metadata: GgufMetadata, base: BaseConfig): FamilyConfig;
}

/** Layers, each as `layer` says; absent if no layer differs. */
export function layersOf(
  { numHiddenLayers }: BaseConfig,
  layer: (index: number) => LayerConfig,
): Pick<ModelConfig, 'layers'> {
  const layers = Array.from({ length: numHiddenLayers }, (_, index) => layer(index));
  return layers.some((each) => Object.keys(each).length > 0) ? { layers } : {};
}

/** Which layers slide, by `layer_types` of config.json; absent if the file does not say. */
export function slidingLayers(json: JsonReader, { numHiddenLayers }: BaseConfig): boolean[] | undefined {
  const types = json.list<string>('layer_types', numHiddenLayers, 'string');
  return types?.map((type) => {
    if (type === 'sliding_attention') return true;
    if (type === 'full_attention') return false;
    return json.refuse(`"layer_types": "${type}"`, 'full_attention, sliding_attention');
  });
}
