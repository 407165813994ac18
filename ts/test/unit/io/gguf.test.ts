import { existsSync } from 'node:fs';
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { FormatError, ShapeError, UnsupportedModelError, XQuantError } from '../../../src/errors.js';
import { parseGgufHeader } from '../../../src/io/gguf-header.js';
import { loadModelFile, readModelHeader } from '../../../src/io/load-model.js';
import { referenceWeights } from '../../../src/model/weights.js';
import { WEIGHT_TYPES } from '../../../src/quant/weight-types.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import {
  type GgufWriteValue,
  type TinyModelOptions,
  tinyModelGguf,
  writeGguf,
} from '../../helpers/gguf-writer.js';

const load = (bytes: Uint8Array) => loadModelFile(bytes, { name: 'tiny.gguf' });

describe('a GGUF model', () => {
  it('gives config, weights, tokenizer and name', async () => {
    const model = await load(tinyModelGguf({ hiddenSize: 64, heads: 4, kvHeads: 2, layers: 3, ffn: 96 }));
    expect(model.name).toBe('tiny llama');
    expect(model.format).toBe('gguf');
    expect(model.config).toMatchObject({
      architecture: 'llama',
      hiddenSize: 64,
      intermediateSize: 96,
      numHiddenLayers: 3,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      headDim: 16,
      vocabSize: 288,
      maxPositionEmbeddings: 256,
      ropeTheta: 10000,
      ropeLayout: 'interleaved',
      tieWordEmbeddings: true,
    });
    expect(model.config.rmsNormEps).toBeCloseTo(1e-5, 10);
    expect(model.weights.layers).toHaveLength(3);
    expect(model.weights.output).toBe(model.weights.embedding);
    expect(new Tokenizer(model.tokenizer).encode('the')).toHaveLength(2);
    expect(model.parameterCount).toBe(288 * 64 + 64 + 3 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64));
  });

  it.each(WEIGHT_TYPES)('reads weights of type %s', async (type) => {
    const model = await load(
      tinyModelGguf({ hiddenSize: 256, heads: 4, ffn: 256, type, layers: 1, vocab: 268 }),
    );
    const weights = referenceWeights(model.weights);
    const values = weights.layers[0].wDown.data;
    const spread = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    expect(spread).toBeGreaterThan(0.03);
    expect(spread).toBeLessThan(0.3);
    expect(model.weightTypes.map((each) => each.type)).toContain(type);
  });

  it('does not copy weights that are in memory already', async () => {
    const bytes = tinyModelGguf({ type: 'Q8_0', ffn: 96 });
    const model = await load(bytes);
    expect(model.weights.layers[1].wQ.bytes.buffer).toBe(bytes.buffer);
  });

  it('reads an output matrix of its own', async () => {
    const model = await load(tinyModelGguf({ tied: false }));
    expect(model.config.tieWordEmbeddings).toBe(false);
    expect(model.weights.output.name).toBe('output.weight');
  });

  it('reads version 2', async () => {
    const file = tinyModelGguf();
    file[4] = 2;
    expect((await load(file)).name).toBe('tiny llama');
  });

  it('reads biases of qwen2 and head norms of qwen3, and rotates halves there', async () => {
    const qwen2 = await load(tinyModelGguf({ architecture: 'qwen2' }));
    expect(qwen2.config.ropeLayout).toBe('half');
    expect(qwen2.weights.layers[0].bQ).toHaveLength(64);
    expect(qwen2.weights.layers[0].bK).toHaveLength(32);
    const qwen3 = await load(tinyModelGguf({ architecture: 'qwen3', headDim: 32 }));
    expect(qwen3.config.headDim).toBe(32);
    expect(qwen3.weights.layers[0].queryNorm).toHaveLength(32);
    expect(qwen3.weights.layers[0].wQ.rows).toBe(128);
  });

  it('takes the divisors of rope_freqs.weight, and a linear factor', async () => {
    const ropeDivisors = Float32Array.of(1, 1, 1, 2, 3, 8, 8, 8);
    const stored = await load(tinyModelGguf({ ropeDivisors }));
    expect(stored.config.ropeFrequencyDivisors).toEqual(ropeDivisors);
    const linear = await load(
      tinyModelGguf({
        edit: ({ metadata }) => {
          metadata['llama.rope.scaling.type'] = 'linear';
          metadata['llama.rope.scaling.factor'] = 4;
        },
      }),
    );
    expect(linear.config.ropeFrequencyDivisors).toEqual(new Float32Array(8).fill(4));
  });

  it('takes a sliding window, of all layers or of those that the file lists', async () => {
    const windows = async (more: Record<string, GgufWriteValue>) => {
      const edit: TinyModelOptions['edit'] = ({ metadata }) => Object.assign(metadata, more);
      return (await load(tinyModelGguf({ layers: 3, edit }))).config.layers;
    };
    const window = { 'llama.attention.sliding_window': 100 };
    expect(await windows(window)).toEqual([1, 2, 3].map(() => ({ slidingWindow: 100 })));
    expect(await windows({ 'llama.attention.sliding_window': 256 })).toBeUndefined(); // the whole context
    const pattern = { ...window, 'llama.attention.sliding_window_pattern': 2 };
    expect(await windows(pattern)).toEqual([{ slidingWindow: 100 }, {}, { slidingWindow: 100 }]);
  });

  it('takes the factor of attention that scaling states', async () => {
    const edit: TinyModelOptions['edit'] = ({ metadata }) => {
      metadata['llama.rope.scaling.attn_factor'] = 1.25;
    };
    expect((await load(tinyModelGguf({ edit }))).config.ropeMagnitude).toBe(1.25);
  });

  it('has a fingerprint that depends on the weights alone', async () => {
    const [a, again, other] = await Promise.all([
      loadModelFile(tinyModelGguf({ seed: 1 }), { name: 'a' }),
      loadModelFile(tinyModelGguf({ seed: 1 }), { name: 'b' }),
      loadModelFile(tinyModelGguf({ seed: 2 }), { name: 'a' }),
    ]);
    expect(a.fingerprint).toMatch(/^[0-9a-f]{16}$/);
    expect(again.fingerprint).toBe(a.fingerprint);
    expect(other.fingerprint).not.toBe(a.fingerprint);
  });

  it('gives its header without the weights', async () => {
    const header = await readModelHeader(tinyModelGguf({ type: 'F16' }));
    expect(header.tensors[0]).toEqual({
      name: 'token_embd.weight',
      type: 'F16',
      shape: [288, 64],
      byteLength: 288 * 64 * 2,
    });
    expect(header).not.toHaveProperty('weights');
  });

  it('keeps large integers and every kind of array', () => {
    const file = writeGguf(
      {
        big: { u64: 2n ** 60n },
        small: { u64: 7n },
        pi: { f64: Math.PI },
        list: Int32Array.of(-1, 2),
        text: ['a', ''],
      },
      [],
    );
    const header = parseGgufHeader(file, file.length, 'x')!;
    expect(Object.fromEntries(header.metadata)).toEqual({
      big: 2n ** 60n,
      small: 7,
      pi: Math.PI,
      list: Int32Array.of(-1, 2),
      text: ['a', ''],
    });
  });
});

describe('a bad GGUF file', () => {
  it.each(Array.from({ length: 15 }, (_, i) => i + 1))('cut at %d/16 is refused', async (sixteenths) => {
    const file = tinyModelGguf();
    const cut = file.slice(0, Math.floor((file.length * sixteenths) / 16));
    const error = await load(cut).catch((caught) => caught);
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(/^tiny\.gguf: .*(cut short|room for)/);
  });

  it('cut anywhere in the header is refused', async () => {
    const file = tinyModelGguf();
    const header = parseGgufHeader(file, file.length, 'x')!;
    for (let length = 0; length < header.dataOffset; length += 61) {
      await expect(load(file.slice(0, length))).rejects.toThrow(FormatError);
    }
  });

  it('claiming 2^40 tensors, entries, tokens or characters is refused without reading on', async () => {
    const patch = (at: number) => {
      const file = tinyModelGguf();
      new DataView(file.buffer).setBigUint64(at, 2n ** 40n, true);
      return load(file);
    };
    await expect(patch(8)).rejects.toThrow(/byte 8: tensor count is 1099511627776, but .* has room for/);
    await expect(patch(16)).rejects.toThrow(/byte 16: metadata count is 1099511627776/);
    await expect(patch(24)).rejects.toThrow(/byte 24: length of metadata key 0 is 1099511627776/);
    const file = tinyModelGguf();
    const key = new TextEncoder().encode('tokenizer.ggml.tokens');
    const at = file.findIndex((_, i) => key.every((byte, j) => file[i + j] === byte)) + key.length + 8;
    new DataView(file.buffer).setBigUint64(at, 2n ** 40n, true);
    await expect(load(file)).rejects.toThrow(/length of "tokenizer\.ggml\.tokens" is 1099511627776/);
  });

  it('that is no GGUF, another version, or big-endian is refused', async () => {
    await expect(load(new TextEncoder().encode('PK not a model, not at all'))).rejects.toThrow(
      /does not begin with "GGUF"/,
    );
    await expect(load(new Uint8Array(0))).rejects.toThrow(FormatError);
    const version = (bytes: number[]) => {
      const file = tinyModelGguf();
      file.set(bytes, 4);
      return load(file);
    };
    await expect(version([1, 0, 0, 0])).rejects.toThrow(UnsupportedModelError);
    await expect(version([4, 0, 0, 0])).rejects.toThrow(/version 4/);
    await expect(version([0, 0, 0, 3])).rejects.toThrow(/big-endian/);
  });

  type Edit = NonNullable<NonNullable<Parameters<typeof tinyModelGguf>[0]>['edit']>;

  it.each<[string, Edit, new (...args: never[]) => Error, RegExp]>([
    [
      'a missing tensor',
      ({ tensors }) =>
        tensors.splice(
          tensors.findIndex((each) => each.name === 'blk.1.ffn_up.weight'),
          1,
        ),
      FormatError,
      /blk\.1\.ffn_up\.weight: the tensor is missing/,
    ],
    [
      'a shape that disagrees',
      ({ metadata }) => {
        metadata['llama.feed_forward_length'] = 128;
      },
      ShapeError,
      /"blk\.0\.ffn_gate\.weight" must be \[128, 64\], got \[96, 64\]/,
    ],
    [
      'an unknown tensor',
      ({ tensors }) => {
        tensors.push({ ...tensors[1], name: 'blk.0.ffn_gate_inp.weight' });
      },
      UnsupportedModelError,
      /blk\.0\.ffn_gate_inp\.weight/,
    ],
    [
      'one bias of three',
      ({ tensors }) => {
        tensors.push({ ...tensors[1], name: 'blk.0.attn_q.bias' });
      },
      FormatError,
      /attn_k\.bias: the tensor is missing/,
    ],
    [
      'a tensor twice',
      ({ tensors }) => {
        tensors.push(tensors[0]);
      },
      FormatError,
      /token_embd\.weight: the tensor occurs twice/,
    ],
    [
      'an unsupported type',
      ({ tensors }) => {
        tensors[0].type = 16;
      },
      UnsupportedModelError,
      /type IQ2_XXS of tensor "token_embd\.weight"/,
    ],
    [
      'a new type',
      ({ tensors }) => {
        tensors[0].type = 40;
      },
      UnsupportedModelError,
      /type NVFP4 of tensor .* Q4_K, .* MXFP4/,
    ],
    [
      'another architecture, whatever its types',
      ({ metadata, tensors }) => {
        metadata['general.architecture'] = 'gpt-oss';
        tensors[0].type = 16;
      },
      UnsupportedModelError,
      /architecture "gpt-oss"/,
    ],
    [
      'a type that nobody knows',
      ({ tensors }) => {
        tensors[0].type = 4711;
      },
      UnsupportedModelError,
      /ggml type 4711/,
    ],
    [
      'rows that are not whole blocks',
      ({ tensors }) => {
        tensors.find((each) => each.name === 'output_norm.weight')!.type = 'Q6_K';
      },
      FormatError,
      /output_norm\.weight: rows of 64 are not whole Q6_K blocks/,
    ],
    [
      'a wrong type that needs more bytes',
      ({ tensors }) => {
        tensors.at(-1)!.type = 'F32';
        tensors.at(-1)!.shape = [2 ** 30, 64];
      },
      FormatError,
      /cut short/,
    ],
    [
      'a dimension of 2^60',
      ({ tensors }) => {
        tensors[0].shape = [2 ** 60, 64];
      },
      FormatError,
      /claims a dimension of 1152921504606846976/,
    ],
    [
      'another architecture',
      ({ metadata }) => {
        metadata['general.architecture'] = 'gemma2';
      },
      UnsupportedModelError,
      /architecture "gemma2"/,
    ],
    [
      'no architecture',
      ({ metadata }) => {
        delete metadata['general.architecture'];
      },
      FormatError,
      /general\.architecture: the metadata key is missing/,
    ],
    [
      'unknown scaling',
      ({ metadata }) => {
        metadata['llama.rope.scaling.type'] = 'xpos';
      },
      UnsupportedModelError,
      /"xpos"/,
    ],
    [
      'layers that predict more tokens',
      ({ metadata }) => {
        metadata['llama.nextn_predict_layers'] = 1;
      },
      UnsupportedModelError,
      /nextn_predict_layers = 1/,
    ],
    [
      'capped logits',
      ({ metadata }) => {
        metadata['llama.final_logit_softcapping'] = 30;
      },
      UnsupportedModelError,
      /final_logit_softcapping = 30/,
    ],
    [
      'experts',
      ({ metadata }) => {
        metadata['llama.expert_count'] = 8;
      },
      UnsupportedModelError,
      /8 experts/,
    ],
    [
      'a key of the wrong type',
      ({ metadata }) => {
        metadata['llama.block_count'] = 'two';
      },
      FormatError,
      /llama\.block_count: must be a number, got a string/,
    ],
    [
      'heads that KV heads do not divide',
      ({ metadata }) => {
        metadata['llama.attention.head_count_kv'] = 3;
      },
      FormatError,
      /numKeyValueHeads/,
    ],
    [
      'an alignment of 3',
      ({ metadata }) => {
        metadata['general.alignment'] = 3;
      },
      FormatError,
      /general\.alignment/,
    ],
    [
      'no merges',
      ({ metadata }) => {
        delete metadata['tokenizer.ggml.merges'];
      },
      FormatError,
      /tokenizer\.ggml\.merges/,
    ],
    [
      'an unknown pre-tokenizer',
      ({ metadata }) => {
        metadata['tokenizer.ggml.pre'] = 'martian';
      },
      UnsupportedModelError,
      /tokenizer\.ggml\.pre "martian"/,
    ],
    [
      'more tokens than rows',
      ({ metadata }) => {
        metadata['tokenizer.ggml.tokens'] = Array.from({ length: 300 }, (_, i) => `t${i}`);
        delete metadata['tokenizer.ggml.token_type'];
      },
      FormatError,
      /300 tokens, but the embedding has 288 rows/,
    ],
    [
      'a split model',
      ({ metadata }) => {
        metadata['split.count'] = 3;
      },
      FormatError,
      /is one of 3 parts: give the path/,
    ],
  ])('with %s is refused by name', async (_, edit, errorClass, message) => {
    const error = await load(tinyModelGguf({ edit })).catch((caught) => caught);
    expect(error).toBeInstanceOf(errorClass);
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^tiny\.gguf: /);
  });

  it('with overlapping tensors or a wrong offset is refused', async () => {
    const file = tinyModelGguf();
    const header = parseGgufHeader(file, file.length, 'x')!;
    const moveSecondTensor = (offset: bigint) => {
      const copy = file.slice();
      const second = new TextEncoder().encode('blk.0.attn_norm.weight');
      const at = copy.findIndex((_, i) => second.every((byte, j) => copy[i + j] === byte)) + second.length;
      new DataView(copy.buffer).setBigUint64(at + 4 + 8 + 4, offset, true);
      return load(copy);
    };
    expect(header.tensors[1].name).toBe('blk.0.attn_norm.weight');
    await expect(moveSecondTensor(32n)).rejects.toThrow(/overlaps "token_embd\.weight"/);
    await expect(moveSecondTensor(33n)).rejects.toThrow(/not a multiple of the alignment/);
    await expect(moveSecondTensor(2n ** 63n)).rejects.toThrow(/beyond the end of the file/);
  });

  it('with NaN in a norm names the tensor; in a matrix when it is decoded', async () => {
    const poison = (name: string) =>
      load(
        tinyModelGguf({
          edit: ({ tensors }) => {
            const { bytes } = tensors.find((each) => each.name === name)!;
            bytes.set([0, 0, 0xc0, 0x7f], 8);
          },
        }),
      );
    await expect(poison('blk.1.attn_norm.weight')).rejects.toThrow(/layer 1 attentionNorm/);
    const model = await poison('blk.1.attn_k.weight');
    expect(() => referenceWeights(model.weights)).toThrow(/blk\.1\.attn_k\.weight, element 2/);
  });

  property.prop([
    fc.array(fc.tuple(fc.nat({ max: 9000 }), fc.integer({ min: 0, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    }),
  ])('with damaged bytes in the header either loads or throws one of our errors', async (damage) => {
    const file = tinyModelGguf({ layers: 1 });
    for (const [at, byte] of damage) file[at] = byte;
    try {
      await load(file);
    } catch (error) {
      expect(error).toBeInstanceOf(XQuantError);
    }
  });
});

describe.skipIf(!existsSync(new URL('../../../../golden/models/books-mha.gguf', import.meta.url)))(
  'the embedded models',
  () => {
    it.each(['books-mha', 'books-gqa'])('%s is found by name', async (name) => {
      const seen: number[] = [];
      const model = await loadModelFile(name, {
        onProgress: ({ loadedBytes, totalBytes }) => {
          if (totalBytes) seen.push(loadedBytes / totalBytes);
        },
      });
      expect(model.parameterCount).toBe(16132352);
      expect(model.config.numKeyValueHeads).toBe(name === 'books-mha' ? 4 : 2);
      expect(seen.at(-1)).toBe(1);
      expect(seen).toEqual(seen.toSorted((a, b) => a - b));
      const tokenizer = new Tokenizer(model.tokenizer);
      expect(tokenizer.eosTokenIds).toEqual([0]);
      // Ids that the model's own tokenizer.json gives.
      expect(tokenizer.encode('It was the best of times, it was the worst of times')).toEqual([
        822, 315, 261, 1211, 278, 1583, 12, 321, 315, 261, 3902, 278, 1583,
      ]);
    });
  },
);
