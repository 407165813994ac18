/**
 * The tensors of a model: one row a tensor, with everything that is known of it. Weights, their checks, loading,
 * placement in linear memory and the tensors of golden cases derive from these rows.
 *
 * @module
 */

import { type DerivedSizes, hasInputNorms, hasPostNorms, type ModelConfig } from './config.js';

/** Sizes that shapes are made of. */
type Sizes = ModelConfig & DerivedSizes;

interface TensorRow {
  /** Matrices are [outChannels, inChannels], as files store them, in any weight type; vectors are f32. */
  readonly kind: 'matrix' | 'vector';
  readonly shape: (sizes: Sizes) => readonly number[];
  /** Whether a model has it. All models have the matrices. */
  readonly present: (config: ModelConfig) => boolean;
  /** Name in a GGUF file, after the prefix of the layer. */
  readonly gguf: string;
  /** Name in a Hugging Face folder, after the prefix of the layer. */
  readonly huggingFace: string | ((config: ModelConfig) => string);
  /** Name of a matrix in golden cases and dumps of a layer. */
  readonly golden?: string;
}

const always = () => true;
const qkvBias = (config: ModelConfig) => config.qkvBias === true;
const mlpBias = (config: ModelConfig) => config.mlpBias === true;
const qkNorm = (config: ModelConfig) => config.qkNorm !== undefined;

/** The tensors of a layer, by role. */
export const LAYER_TENSORS = {
  /** Gain of the norm before attention. */
  attentionNorm: {
    kind: 'vector',
    shape: ({ hiddenSize }) => [hiddenSize],
    present: hasInputNorms,
    gguf: 'attn_norm.weight',
    huggingFace: 'input_layernorm.weight',
  },
  /** Gain of the norm before the MLP. */
  mlpNorm: {
    kind: 'vector',
    shape: ({ hiddenSize }) => [hiddenSize],
    present: hasInputNorms,
    gguf: 'ffn_norm.weight',
    huggingFace: ({ norms }) =>
      norms === 'both' ? 'pre_feedforward_layernorm.weight' : 'post_attention_layernorm.weight',
  },
  wQ: {
    kind: 'matrix',
    shape: ({ queryDim, hiddenSize }) => [queryDim, hiddenSize],
    present: always,
    gguf: 'attn_q.weight',
    huggingFace: 'self_attn.q_proj.weight',
    golden: 'w_q',
  },
  wK: {
    kind: 'matrix',
    shape: ({ kvDim, hiddenSize }) => [kvDim, hiddenSize],
    present: always,
    gguf: 'attn_k.weight',
    huggingFace: 'self_attn.k_proj.weight',
    golden: 'w_k',
  },
  wV: {
    kind: 'matrix',
    shape: ({ kvDim, hiddenSize }) => [kvDim, hiddenSize],
    present: always,
    gguf: 'attn_v.weight',
    huggingFace: 'self_attn.v_proj.weight',
    golden: 'w_v',
  },
  wO: {
    kind: 'matrix',
    shape: ({ hiddenSize, queryDim }) => [hiddenSize, queryDim],
    present: always,
    gguf: 'attn_output.weight',
    huggingFace: 'self_attn.o_proj.weight',
    golden: 'w_o',
  },
  wGate: {
    kind: 'matrix',
    shape: ({ intermediateSize, hiddenSize }) => [intermediateSize, hiddenSize],
    present: always,
    gguf: 'ffn_gate.weight',
    huggingFace: 'mlp.gate_proj.weight',
    golden: 'w_gate',
  },
  wUp: {
    kind: 'matrix',
    shape: ({ intermediateSize, hiddenSize }) => [intermediateSize, hiddenSize],
    present: always,
    gguf: 'ffn_up.weight',
    huggingFace: 'mlp.up_proj.weight',
    golden: 'w_up',
  },
  wDown: {
    kind: 'matrix',
    shape: ({ hiddenSize, intermediateSize }) => [hiddenSize, intermediateSize],
    present: always,
    gguf: 'ffn_down.weight',
    huggingFace: 'mlp.down_proj.weight',
    golden: 'w_down',
  },
  bQ: {
    kind: 'vector',
    shape: ({ queryDim }) => [queryDim],
    present: qkvBias,
    gguf: 'attn_q.bias',
    huggingFace: 'self_attn.q_proj.bias',
  },
  bK: {
    kind: 'vector',
    shape: ({ kvDim }) => [kvDim],
    present: qkvBias,
    gguf: 'attn_k.bias',
    huggingFace: 'self_attn.k_proj.bias',
  },
  bV: {
    kind: 'vector',
    shape: ({ kvDim }) => [kvDim],
    present: qkvBias,
    gguf: 'attn_v.bias',
    huggingFace: 'self_attn.v_proj.bias',
  },
  /** Gain of the norm of queries: of a head, or of all of them. */
  queryNorm: {
    kind: 'vector',
    shape: ({ qkNorm, headDim, queryDim }) => [qkNorm === 'width' ? queryDim : headDim],
    present: qkNorm,
    gguf: 'attn_q_norm.weight',
    huggingFace: ({ qkNorm }) =>
      qkNorm === 'headAfterRope' ? 'self_attn.query_layernorm.weight' : 'self_attn.q_norm.weight',
  },
  /** Gain of the norm of keys: of a head, or of all of them. */
  keyNorm: {
    kind: 'vector',
    shape: ({ qkNorm, headDim, kvDim }) => [qkNorm === 'width' ? kvDim : headDim],
    present: qkNorm,
    gguf: 'attn_k_norm.weight',
    huggingFace: ({ qkNorm }) =>
      qkNorm === 'headAfterRope' ? 'self_attn.key_layernorm.weight' : 'self_attn.k_norm.weight',
  },
  bO: {
    kind: 'vector',
    shape: ({ hiddenSize }) => [hiddenSize],
    present: (config) => config.outputBias === true,
    gguf: 'attn_output.bias',
    huggingFace: 'self_attn.o_proj.bias',
  },
  bGate: {
    kind: 'vector',
    shape: ({ intermediateSize }) => [intermediateSize],
    present: mlpBias,
    gguf: 'ffn_gate.bias',
    huggingFace: 'mlp.gate_proj.bias',
  },
  bUp: {
    kind: 'vector',
    shape: ({ intermediateSize }) => [intermediateSize],
    present: mlpBias,
    gguf: 'ffn_up.bias',
    huggingFace: 'mlp.up_proj.bias',
  },
  bDown: {
    kind: 'vector',
    shape: ({ hiddenSize }) => [hiddenSize],
    present: mlpBias,
    gguf: 'ffn_down.bias',
    huggingFace: 'mlp.down_proj.bias',
  },
  /** Gain of the norm after attention. */
  attentionPostNorm: {
    kind: 'vector',
    shape: ({ hiddenSize }) => [hiddenSize],
    present: hasPostNorms,
    gguf: 'post_attention_norm.weight',
    huggingFace: 'post_attention_layernorm.weight',
  },
  /** Gain of the norm after the MLP. */
  mlpPostNorm: {
    kind: 'vector',
    shape: ({ hiddenSize }) => [hiddenSize],
    present: hasPostNorms,
    gguf: 'post_ffw_norm.weight',
    huggingFace: 'post_feedforward_layernorm.weight',
  },
} as const satisfies Readonly<Record<string, TensorRow>>;

/** Role of a tensor in a layer. */
export type LayerRole = keyof typeof LAYER_TENSORS;

type RoleOf<K extends TensorRow['kind']> = {
  [R in LayerRole]: (typeof LAYER_TENSORS)[R]['kind'] extends K ? R : never;
}[LayerRole];

/** Role of a matrix in a layer: all models have all of them. */
export type MatrixRole = RoleOf<'matrix'>;

/** Role of a vector in a layer: the config says which a model has. */
export type VectorRole = RoleOf<'vector'>;

const ROLES = Object.keys(LAYER_TENSORS) as LayerRole[];

/** Roles of matrices. */
export const MATRIX_ROLES = ROLES.filter((role) => LAYER_TENSORS[role].kind === 'matrix') as MatrixRole[];

/** Roles of vectors. */
export const VECTOR_ROLES = ROLES.filter((role) => LAYER_TENSORS[role].kind === 'vector') as VectorRole[];

/** Roles of norm gains, whose stored values some families count from one. */
export const NORM_ROLES: readonly VectorRole[] = VECTOR_ROLES.filter((role) => role.endsWith('Norm'));

/** The tensors outside the layers. */
export const MODEL_TENSORS = {
  embedding: { gguf: 'token_embd.weight', huggingFace: 'model.embed_tokens.weight' },
  outputNorm: { gguf: 'output_norm.weight', huggingFace: 'model.norm.weight' },
  output: { gguf: 'output.weight', huggingFace: 'lm_head.weight' },
} as const;

/** A tensor of a layer of some model. */
export interface LayerTensor {
  readonly role: LayerRole;
  readonly shape: readonly number[];
  readonly gguf: string;
  readonly huggingFace: string;
}

/** The tensors that each layer of a model has. */
export function layerTensors(config: ModelConfig, sizes: DerivedSizes): LayerTensor[] {
  const rows: readonly (readonly [LayerRole, TensorRow])[] = ROLES.map((role) => [role, LAYER_TENSORS[role]]);
  return rows
    .filter(([, { present }]) => present(config))
    .map(([role, { shape, gguf, huggingFace }]) => ({
      role,
      shape: shape({ ...config, ...sizes }),
      gguf,
      huggingFace: typeof huggingFace === 'string' ? huggingFace : huggingFace(config),
    }));
}
