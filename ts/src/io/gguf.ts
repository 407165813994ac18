/**
 * A model from a GGUF file: metadata to config, tensors to weights.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import type { Architecture, ModelConfig } from '../model/config.js';
import { alignedCopy } from '../numerics/bytes.js';
import { WEIGHT_TYPES } from '../quant/weight-types.js';
import { checkTokenizerSource } from '../text/tokenizer.js';
import type { TokenizerSource } from '../text/tokenizer-source.js';
import { type StoredTensor, selectTensors, type TensorNames } from './assemble.js';
import { checkConfig, checkHeadDim } from './check-config.js';
import { type GgufHeader, type GgufTensorInfo, readGgufHeader } from './gguf-header.js';
import { summarizeTypes, type TensorInfo } from './model-file.js';
import type { OpenModel } from './open-model.js';
import type { ByteSource } from './source.js';

/** GGUF's names of the tensors. */
const NAMES: TensorNames = {
  embedding: 'token_embd.weight',
  outputNorm: 'output_norm.weight',
  output: 'output.weight',
  layerPrefix: (layer) => `blk.${layer}.`,
  layer: {
    attentionNorm: 'attn_norm.weight',
    wQ: 'attn_q.weight',
    wK: 'attn_k.weight',
    wV: 'attn_v.weight',
    wO: 'attn_output.weight',
    bQ: 'attn_q.bias',
    bK: 'attn_k.bias',
    bV: 'attn_v.bias',
    queryNorm: 'attn_q_norm.weight',
    keyNorm: 'attn_k_norm.weight',
    mlpNorm: 'ffn_norm.weight',
    wGate: 'ffn_gate.weight',
    wUp: 'ffn_up.weight',
    wDown: 'ffn_down.weight',
  },
};

/** Divisors of the RoPE frequencies (llama3 scaling), stored as a tensor. [headDim / 2] */
const ROPE_DIVISORS = 'rope_freqs.weight';

/** GGUF architectures that are read. Mistral models carry the name `llama`. */
const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  llama: 'llama',
  qwen2: 'qwen2',
  qwen3: 'qwen3',
};
const SUPPORTED = 'llama (also Mistral, TinyLlama, SmolLM2), qwen2, qwen3';

/**
 * Opens a GGUF file: reads and checks everything but the weights.
 *
 * @throws {FormatError | ShapeError} if the file contradicts itself; names the place
 * @throws {UnsupportedModelError} names the architecture, type or tensor
 * @throws {LoadError} if the file cannot be read
 */
export async function openGguf(source: ByteSource): Promise<OpenModel> {
  const header = await readGgufHeader(source);
  const path = source.name;
  const metadata = new Metadata(header, path);
  const config = await readConfig(metadata, header, source);
  const tensors = header.tensors.map((tensor) => storedTensor(tensor, source, path));
  const selected = selectTensors(tensors, config, NAMES, path, (name) => name === ROPE_DIVISORS);
  const tokenizer = tokenizerSource(header, path);
  checkTokenizerSource(tokenizer);
  const tokens = header.metadata.get('tokenizer.ggml.tokens');
  if (Array.isArray(tokens) && tokens.length > config.vocabSize) {
    const reason = `${tokens.length} tokens, but the embedding has ${config.vocabSize} rows`;
    throw new FormatError(path, 'tokenizer.ggml.tokens', reason);
  }
  const template = header.metadata.get('tokenizer.chat_template');
  const infos: TensorInfo[] = tensors.map(({ name, type, shape, byteLength }) => ({
    name,
    type,
    shape,
    byteLength,
  }));
  return {
    header: {
      name: metadata.text('general.name') || path,
      format: 'gguf',
      config,
      tokenizer,
      ...(typeof template === 'string' ? { chatTemplate: template } : {}),
      tensors: infos,
      weightTypes: summarizeTypes(infos),
      parameterCount: countElements(selected),
      byteLength: source.size,
    },
    selected,
    names: NAMES,
  };
}

function storedTensor(tensor: GgufTensorInfo, source: ByteSource, path: string): StoredTensor {
  const { name, type, offset, byteLength } = tensor;
  if (byteLength === undefined) {
    // Not even its size is known here, so nothing else can be said about the file.
    throw new UnsupportedModelError(path, `type ${type} of tensor "${name}"`, WEIGHT_TYPES.join(', '));
  }
  // Some writers pad the shape of a vector or matrix with ones on the outside; they say nothing.
  const shape = tensor.shape.slice();
  while (shape.length > 1 && shape[0] === 1) shape.shift();
  return { name, type, shape, offset, byteLength, source };
}

async function readConfig(metadata: Metadata, header: GgufHeader, source: ByteSource): Promise<ModelConfig> {
  const path = source.name;
  const name = metadata.requiredText('general.architecture');
  const kind = metadata.text('general.type');
  if (kind !== undefined && kind !== 'model') {
    throw new UnsupportedModelError(path, `a file of general.type "${kind}"`, 'model');
  }
  if (!Object.hasOwn(ARCHITECTURES, name)) {
    throw new UnsupportedModelError(path, `architecture "${name}"`, SUPPORTED);
  }
  const key = (suffix: string) => `${name}.${suffix}`;
  refuseOtherModels(metadata, key, path);

  const hiddenSize = metadata.requiredSize(key('embedding_length'));
  const numAttentionHeads = metadata.requiredSize(key('attention.head_count'));
  const numKeyValueHeads = metadata.size(key('attention.head_count_kv')) ?? numAttentionHeads;
  const headDim = metadata.size(key('attention.key_length')) ?? hiddenSize / numAttentionHeads;
  checkHeadDim(headDim, path);
  const valueLength = metadata.size(key('attention.value_length')) ?? headDim;
  if (valueLength !== headDim) {
    throw new UnsupportedModelError(
      path,
      `${key('attention.value_length')} ${valueLength}`,
      `${headDim}, as the keys`,
    );
  }
  const rotated = metadata.size(key('rope.dimension_count')) ?? headDim;
  if (rotated !== headDim) {
    throw new UnsupportedModelError(
      path,
      `${key('rope.dimension_count')} ${rotated}`,
      `${headDim}, the whole head`,
    );
  }

  const embedding = header.tensors.find((tensor) => tensor.name === NAMES.embedding);
  if (!embedding) throw new FormatError(path, NAMES.embedding, 'the tensor is missing');
  const vocabSize = metadata.size(key('vocab_size')) ?? embedding.shape[0];

  const contextLength = metadata.requiredSize(key('context_length'));
  const window = metadata.size(key('attention.sliding_window'));
  const divisors = await ropeDivisors(metadata, key, header, source, headDim);
  const config: ModelConfig = {
    architecture: ARCHITECTURES[name],
    hiddenSize,
    intermediateSize: metadata.requiredSize(key('feed_forward_length')),
    numHiddenLayers: metadata.requiredSize(key('block_count')),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize,
    // Inside its window sliding attention is full attention. Beyond it this package would attend to more
    // than the model was trained on, so the window is the limit.
    maxPositionEmbeddings: window ? Math.min(window, contextLength) : contextLength,
    rmsNormEps: metadata.requiredNumber(key('attention.layer_norm_rms_epsilon')),
    ropeTheta: metadata.number(key('rope.freq_base')) ?? 10000,
    // llama.cpp rotates neighbours in llama files (their Wq and Wk rows are permuted) and halves in Qwen files.
    ropeLayout: name === 'llama' ? 'interleaved' : 'half',
    ...(divisors ? { ropeFrequencyDivisors: divisors } : {}),
    tieWordEmbeddings: !header.tensors.some((tensor) => tensor.name === NAMES.output),
  };
  return checkConfig(config, path);
}

function refuseOtherModels(metadata: Metadata, key: (suffix: string) => string, path: string): void {
  const experts = metadata.number(key('expert_count'));
  if (experts) throw new UnsupportedModelError(path, `a mixture of ${experts} experts`, 'dense models');
  const parts = metadata.number('split.count');
  if (parts !== undefined && parts > 1) {
    throw new UnsupportedModelError(
      path,
      `a model split over ${parts} GGUF files`,
      'one file (merge it with llama-gguf-split)',
    );
  }
  if (metadata.boolean(key('attention.causal')) === false) {
    throw new UnsupportedModelError(path, `${key('attention.causal')} = false`, 'causal models');
  }
  for (const suffix of ['logit_scale', 'residual_scale', 'embedding_scale', 'attention.scale']) {
    const scale = metadata.number(key(suffix));
    if (scale !== undefined && scale !== 0 && scale !== 1) {
      throw new UnsupportedModelError(path, `${key(suffix)} = ${scale}`, 'models without that factor');
    }
  }
}

/** Divisors of the RoPE frequencies: stored (llama3), one factor (linear), or none. */
async function ropeDivisors(
  metadata: Metadata,
  key: (suffix: string) => string,
  header: GgufHeader,
  source: ByteSource,
  headDim: number,
): Promise<Float32Array | undefined> {
  const path = source.name;
  const type = metadata.text(key('rope.scaling.type')) ?? 'none';
  const factor = metadata.number(key('rope.scaling.factor')) ?? metadata.number(key('rope.scale_linear'));
  if (type !== 'none' && type !== 'linear') {
    throw new UnsupportedModelError(
      path,
      `${key('rope.scaling.type')} "${type}"`,
      'none, linear, rope_freqs.weight',
    );
  }
  const stored = header.tensors.find((tensor) => tensor.name === ROPE_DIVISORS);
  const linear =
    type === 'linear' || metadata.text(key('rope.scaling.type')) === undefined ? (factor ?? 1) : 1;
  if (!stored) return linear === 1 || linear === 0 ? undefined : new Float32Array(headDim / 2).fill(linear);

  if (stored.type !== 'F32')
    throw new UnsupportedModelError(path, `type ${stored.type} of "${ROPE_DIVISORS}"`, 'F32');
  if (stored.shape.length !== 1 || stored.shape[0] !== headDim / 2) {
    throw new FormatError(
      path,
      ROPE_DIVISORS,
      `must have ${headDim / 2} elements, got [${stored.shape.join(', ')}]`,
    );
  }
  const bytes = await source.read(stored.offset, stored.byteLength!);
  const divisors = new Float32Array(alignedCopy(bytes));
  return divisors.map((divisor) => divisor * (linear || 1));
}

function tokenizerSource(header: GgufHeader, path: string): TokenizerSource {
  const metadata = new Map([...header.metadata].filter(([key]) => key.startsWith('tokenizer.')));
  const model = metadata.get('tokenizer.ggml.model');
  if (model === undefined || model === 'none' || model === 'no_vocab') return { kind: 'none', path };
  return { kind: 'gguf', path, metadata };
}

function countElements(tensors: readonly TensorInfo[]): number {
  return tensors.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
}

/** Typed access to metadata: a wrong type is an error that names the key. */
class Metadata {
  constructor(
    private readonly header: GgufHeader,
    private readonly path: string,
  ) {}

  text(key: string): string | undefined {
    const value = this.header.metadata.get(key);
    if (value === undefined || typeof value === 'string') return value;
    throw this.wrongType(key, 'a string');
  }

  requiredText(key: string): string {
    return this.text(key) ?? this.missing(key);
  }

  boolean(key: string): boolean | undefined {
    const value = this.header.metadata.get(key);
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.wrongType(key, 'a boolean');
  }

  /** A number; a list of equal numbers (one per layer) counts as that number. */
  number(key: string): number | undefined {
    const value = this.header.metadata.get(key);
    if (value === undefined || typeof value === 'number') return value;
    if (typeof value === 'object' && value.length > 0 && typeof value[0] === 'number') {
      const list = Array.from(value as ArrayLike<number>);
      if (list.every((each) => each === list[0])) return list[0];
      const supported = 'one value for all layers';
      throw new UnsupportedModelError(
        this.path,
        `"${key}" = [${list.slice(0, 8).join(', ')}, ...]`,
        supported,
      );
    }
    throw this.wrongType(key, 'a number');
  }

  requiredNumber(key: string): number {
    return this.number(key) ?? this.missing(key);
  }

  size(key: string): number | undefined {
    const value = this.number(key);
    if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return value;
    throw new FormatError(this.path, key, `must be a size, got ${value}`);
  }

  requiredSize(key: string): number {
    return this.size(key) ?? this.missing(key);
  }

  private missing(key: string): never {
    throw new FormatError(this.path, key, 'the metadata key is missing');
  }

  private wrongType(key: string, expected: string): FormatError {
    const value = this.header.metadata.get(key);
    const actual = typeof value === 'object' ? 'a list' : `a ${typeof value}`;
    return new FormatError(this.path, key, `must be ${expected}, got ${actual}`);
  }
}
