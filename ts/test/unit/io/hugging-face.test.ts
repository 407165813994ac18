import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { FormatError, LoadError, ShapeError, UnsupportedModelError } from '../../../src/errors.js';
import { readConfig } from '../../../src/io/hugging-face-config.js';
import { loadModelFile, readModelHeader } from '../../../src/io/load-model.js';
import { llama3Divisors } from '../../../src/io/rope-scaling.js';
import { toSafeTensor } from '../../../src/io/safetensors.js';
import { referenceWeights } from '../../../src/model/weights.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { asFiles, json, type TinyFolderOptions, tinyFolder } from '../../helpers/hugging-face-folder.js';

const load = (options: TinyFolderOptions, change: (files: Map<string, Uint8Array>) => void = () => {}) => {
  const files = tinyFolder(options);
  change(files);
  return loadModelFile(asFiles(files), { name: 'tiny' });
};

const LLAMA = {
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 288,
  max_position_embeddings: 4096,
};

describe('a Hugging Face folder', () => {
  it.each(['F32', 'F16', 'BF16'] as const)('of %s gives config, weights and tokenizer', async (dtype) => {
    const model = await load({ dtype });
    expect(model.format).toBe('hugging-face');
    expect(model.name).toBe('tiny');
    expect(model.config).toMatchObject({
      architecture: 'llama',
      headDim: 16,
      ropeLayout: 'half',
      rmsNormEps: 1e-5,
    });
    expect(model.weightTypes).toHaveLength(1);
    expect(model.weightTypes[0].type).toBe(dtype);
    const tokenizer = new Tokenizer(model.tokenizer);
    expect(tokenizer.encode('the')).toEqual([tokenizer.tokenToId('the')]);
    expect(tokenizer.eosTokenIds).toEqual([0]);
    expect(model.weights.output).toBe(model.weights.embedding);
    expect(referenceWeights(model.weights).layers).toHaveLength(2);
  });

  it('in one file is read from it, whatever an index left from before says', async () => {
    const whole = await load({});
    const stale = json({ weight_map: { 'model.norm.weight': 'model-00001-of-00002.safetensors' } });
    const model = await load({}, (files) => files.set('model.safetensors.index.json', stale));
    expect(model.fingerprint).toBe(whole.fingerprint);
  });

  it('in shards gives the same model', async () => {
    const [whole, sharded] = [await load({}), await load({ shards: 3 })];
    expect(sharded.fingerprint).toBe(whole.fingerprint);
    expect(sharded.parameterCount).toBe(whole.parameterCount);
  });

  it('of qwen2 has biases, of qwen3 head norms, and may have a head size of its own', async () => {
    const qwen2 = await load({ config: { model_type: 'qwen2' } });
    expect(qwen2.weights.layers[1].bV).toHaveLength(32);
    const qwen3 = await load({ config: { model_type: 'qwen3', head_dim: 32 } });
    expect(qwen3.weights.layers[0].keyNorm).toHaveLength(32);
    expect(qwen3.weights.layers[0].wO.columns).toBe(128);
  });

  it('may have an output matrix of its own; a tied model ignores one', async () => {
    const own = await load({ config: { tie_word_embeddings: false } });
    expect(own.weights.output.name).toBe('lm_head.weight');
    const edit: TinyFolderOptions['edit'] = (tensors) =>
      tensors.set('lm_head.weight', tensors.get('model.embed_tokens.weight')!);
    expect((await load({ edit })).weights.output.name).toBe('model.embed_tokens.weight');
  });

  it('ignores the rotary buffers of old checkpoints', async () => {
    const buffer = toSafeTensor(new Float32Array(8));
    const edit: TinyFolderOptions['edit'] = (tensors) =>
      tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', buffer);
    await expect(load({ edit })).resolves.toBeDefined();
  });

  it('gives chat template and end tokens from where they are', async () => {
    const fromConfig = await load({}, (files) => {
      files.set(
        'tokenizer_config.json',
        json({
          chat_template: [{ name: 'default', template: 'T' }],
          eos_token: { content: '<|endoftext|>' },
          bos_token: 'the',
        }),
      );
      files.set('generation_config.json', json({ eos_token_id: [5, 0] }));
    });
    expect(fromConfig.chatTemplate).toBe('T');
    const tokenizer = new Tokenizer(fromConfig.tokenizer);
    expect(tokenizer.eosTokenIds).toEqual([5, 0]);
    expect(tokenizer.bosTokenId).toBe(tokenizer.tokenToId('the'));
    expect(tokenizer.eosToken).toBe('<|endoftext|>');
    const fromFile = await load({}, (files) =>
      files.set('chat_template.jinja', new TextEncoder().encode('J')),
    );
    expect(fromFile.chatTemplate).toBe('J');
  });

  it('may be without a tokenizer until one is wanted', async () => {
    const model = await load({}, (files) => files.delete('tokenizer.json'));
    expect(() => new Tokenizer(model.tokenizer)).toThrow(/no tokenizer/);
  });

  it.each<[string, TinyFolderOptions, new (...args: never[]) => Error, RegExp]>([
    [
      'a missing tensor',
      { edit: (tensors) => tensors.delete('model.layers.1.mlp.up_proj.weight') },
      FormatError,
      /model\.layers\.1\.mlp\.up_proj\.weight: the tensor is missing/,
    ],
    [
      'a shape that disagrees',
      { edit: (tensors) => tensors.set('model.norm.weight', toSafeTensor(new Float32Array(65))) },
      ShapeError,
      /"model\.norm\.weight" must be \[64\], got \[65\]/,
    ],
    [
      'an unexpected tensor',
      {
        edit: (tensors) => tensors.set('model.layers.0.mlp.experts.0.w1', toSafeTensor(new Float32Array(1))),
      },
      UnsupportedModelError,
      /experts/,
    ],
    [
      'a type that is not a float',
      { edit: (tensors) => tensors.set('model.norm.weight', toSafeTensor(new Int8Array(64))) },
      UnsupportedModelError,
      /type I8 of tensor "model\.norm\.weight"/,
    ],
    [
      'no output matrix',
      { config: { tie_word_embeddings: false }, edit: (t) => t.delete('lm_head.weight') },
      FormatError,
      /lm_head/,
    ],
    ['another architecture', { config: { model_type: 'gemma2' } }, UnsupportedModelError, /"gemma2"/],
    ['another activation', { config: { hidden_act: 'gelu' } }, UnsupportedModelError, /"gelu"/],
    ['biases that are missing', { config: { attention_bias: true } }, FormatError, /q_proj\.bias/],
    ['attention in both directions', { config: { is_causal: false } }, UnsupportedModelError, /is_causal/],
    [
      'quantized weights',
      { config: { quantization_config: { quant_method: 'gptq' } } },
      UnsupportedModelError,
      /gptq/,
    ],
    ['unknown scaling', { config: { rope_scaling: { type: 'xpos' } } }, UnsupportedModelError, /"xpos"/],
    ['a size that is text', { config: { hidden_size: '64' } }, FormatError, /hidden_size: must be a number/],
    ['uneven heads', { config: { num_key_value_heads: 3 } }, FormatError, /numKeyValueHeads/],
  ])('with %s is refused by name', async (_, options, errorClass, message) => {
    const error = await load(options).catch((caught) => caught);
    expect(error).toBeInstanceOf(errorClass);
    expect(error.message).toMatch(message);
  });

  it.each<[string, (files: Map<string, Uint8Array>) => void, RegExp]>([
    ['no config', (files) => files.delete('config.json'), /neither config\.json nor a \.gguf file/],
    [
      'a config that is not JSON',
      (files) => files.set('config.json', new TextEncoder().encode('{')),
      /config\.json: content: is not JSON/,
    ],
    ['no weights', (files) => files.delete('model.safetensors'), /the file model\.safetensors is missing/],
    [
      'weights of PyTorch only',
      (files) => {
        files.delete('model.safetensors');
        files.set('pytorch_model.bin', new Uint8Array(1));
      },
      /there is pytorch_model\.bin, but only safetensors are read/,
    ],
    [
      'an index that points outside',
      (files) => {
        files.delete('model.safetensors');
        files.set('model.safetensors.index.json', json({ weight_map: { a: '../x.safetensors' } }));
      },
      /must name a \.safetensors file of the folder/,
    ],
    [
      'a tokenizer without merges',
      (files) => files.set('tokenizer.json', json({ model: { type: 'BPE', vocab: {} } })),
      /model\.merges/,
    ],
    [
      'a cut file',
      (files) => files.set('model.safetensors', files.get('model.safetensors')!.slice(0, -1)),
      /not inside/,
    ],
  ])('with %s is refused', async (_, change, message) => {
    const error = await load({}, change).catch((caught) => caught);
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(message);
  });
});

describe('config.json', () => {
  it('fills in what old files leave out', () => {
    const config = readConfig(LLAMA, 'c');
    expect(config).toMatchObject({
      numKeyValueHeads: 4,
      ropeTheta: 10000,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
    });
    expect(config.ropeFrequencyDivisors).toBeUndefined();
    expect(() => readConfig({ ...LLAMA, hidden_size: undefined }, 'c')).toThrow(
      /hidden_size: the key is missing/,
    );
  });

  it('claiming more layers than there are is refused at the first that is missing', async () => {
    const files = tinyFolder();
    files.set(
      'config.json',
      json({ ...LLAMA, num_key_value_heads: 2, tie_word_embeddings: true, num_hidden_layers: 2 ** 16 }),
    );
    const error = await loadModelFile(asFiles(files)).catch((caught) => caught);
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(/model\.layers\.2\.input_layernorm\.weight: the tensor is missing/);
  });

  it('claiming 2^40 layers is refused at once', () => {
    expect(() => readConfig({ ...LLAMA, num_hidden_layers: 2 ** 40 }, 'c')).toThrow(
      /layers: must be a count/,
    );
  });

  it('takes the window of Mistral, not one that Qwen switches off', () => {
    const windows = (options: object) => {
      const { layers, numHiddenLayers } = readConfig({ ...LLAMA, ...options }, 'c');
      return Array.from({ length: numHiddenLayers }, (_, i) => layers?.[i].slidingWindow);
    };
    const window = { sliding_window: 1000 };
    const none = windows({});
    expect(none.every((each) => each === undefined)).toBe(true);
    expect(windows({ ...window, model_type: 'mistral' })).toEqual(none.map(() => 1000));
    expect(windows({ sliding_window: null, model_type: 'mistral' })).toEqual(none);
    expect(windows({ ...window, model_type: 'qwen2' })).toEqual(none);
    const on = { ...window, model_type: 'qwen2', use_sliding_window: true };
    expect(windows({ ...on, max_window_layers: 1 })).toEqual(none.map((_, i) => (i >= 1 ? 1000 : undefined)));
    expect(
      windows({ ...on, layer_types: none.map((_, i) => (i === 0 ? 'sliding' : 'full') + '_attention') }),
    ).toEqual(none.map((_, i) => (i === 0 ? 1000 : undefined)));
  });

  it('has a window only where it is narrower than the context', () => {
    const wide = { ...LLAMA, model_type: 'mistral', sliding_window: 4096 };
    expect(readConfig(wide, 'c')).not.toHaveProperty('layers');
  });

  it('with absurd sizes is refused before anything is allocated', () => {
    for (const head_dim of [1e15, 3, 16.5, 0, -2]) {
      const scaled = { ...LLAMA, head_dim, rope_scaling: { type: 'linear', factor: 2 } };
      expect(() => readConfig(scaled, 'c')).toThrow(/head size: must be an even number/);
    }
  });

  it('reads scaling under its old and its new name', () => {
    const linear = new Float32Array(8).fill(4);
    expect(
      readConfig({ ...LLAMA, rope_scaling: { type: 'linear', factor: 4 } }, 'c').ropeFrequencyDivisors,
    ).toEqual(linear);
    const newer = { rope_type: 'linear', factor: 4, rope_theta: 500000 };
    const config = readConfig({ ...LLAMA, rope_parameters: newer }, 'c');
    expect(config.ropeFrequencyDivisors).toEqual(linear);
    expect(config.ropeTheta).toBe(500000);
    // Where both are, transformers takes the old name, and theta from beside it.
    const both = {
      ...LLAMA,
      rope_theta: 20000,
      rope_parameters: newer,
      rope_scaling: { type: 'linear', factor: 2 },
    };
    expect(readConfig(both, 'c').ropeFrequencyDivisors).toEqual(new Float32Array(8).fill(2));
    expect(readConfig(both, 'c').ropeTheta).toBe(20000);
    expect(readConfig({ ...both, rope_scaling: {} }, 'c').ropeTheta).toBe(500000);
    expect(() => readConfig({ ...LLAMA, rope_scaling: { type: 'linear' } }, 'c')).toThrow(
      /rope_scaling\.factor/,
    );
  });

  it('scales as Llama 3.1 does', () => {
    const scaling = { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 };
    const divisors = llama3Divisors(scaling, 128, 500000);
    const config = readConfig(
      {
        ...LLAMA,
        hidden_size: 512,
        rope_theta: 500000,
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 8192,
        },
      },
      'c',
    );
    expect(config.ropeFrequencyDivisors).toEqual(divisors);
    // Pairs 0 to 28 turn often enough within 8192 tokens, 35 and on too seldom; 29 to 34 lie between.
    expect(divisors.slice(0, 29).every((value) => value === 1)).toBe(true);
    expect(divisors.slice(35).every((value) => value === 8)).toBe(true);
    const between = Array.from(divisors.slice(29, 35));
    expect(between.every((value) => value > 1 && value < 8)).toBe(true);
    expect(between).toEqual(between.toSorted((a, b) => a - b));
    // In the middle: a mean of 1 and 1/8, weighted by how often the pair turns.
    const wavelength = 2 * Math.PI * 500000 ** (64 / 128);
    const smooth = (8192 / wavelength - 1) / 3;
    expect(divisors[32]).toBeCloseTo(1 / ((1 - smooth) / 8 + smooth), 6);
  });
});

describe('paths', () => {
  const root = mkdtempSync(join(tmpdir(), 'xquant-io-'));
  afterAll(() => rmSync(root, { recursive: true }));
  const write = (name: string, files: ReadonlyMap<string, Uint8Array>) => {
    mkdirSync(join(root, name));
    for (const [file, bytes] of files) writeFileSync(join(root, name, file), bytes);
    return join(root, name);
  };

  it('of a folder, read with one number of progress over all shards', async () => {
    const path = write('sharded', tinyFolder({ shards: 3 }));
    const seen: { loadedBytes: number; totalBytes?: number }[] = [];
    const model = await loadModelFile(path, { onProgress: (progress) => seen.push(progress) });
    expect(model.name).toBe('sharded');
    expect(seen.at(-1)).toEqual({ loadedBytes: model.byteLength, totalBytes: model.byteLength });
    const loaded = seen.map((each) => each.loadedBytes);
    expect(loaded).toEqual(loaded.toSorted((a, b) => a - b));
    expect((await readModelHeader(path)).tensors).toHaveLength(model.tensors.length);
  });

  it('that lead nowhere', async () => {
    await expect(loadModelFile(join(root, 'nothing.gguf'))).rejects.toThrow(LoadError);
    await expect(loadModelFile(join(root, 'nothing.gguf'))).rejects.toThrow(/there is no such file/);
    const empty = write('empty', new Map());
    await expect(loadModelFile(empty)).rejects.toThrow(/neither config\.json nor a \.gguf file/);
    const part = join(write('part', tinyFolder()), 'model.safetensors');
    await expect(loadModelFile(part)).rejects.toThrow(/give its folder/);
  });
});
