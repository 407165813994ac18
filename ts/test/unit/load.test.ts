import { describe, expect, it } from 'vitest';
import { BACKENDS } from '../../src/backends.js';
import { ConfigError, DisposedError, MemoryError } from '../../src/errors.js';
import { generate } from '../../src/generate.js';
import { loadModel } from '../../src/load.js';
import type { LanguageModel } from '../../src/model/language-model.js';
import { tinyModelGguf } from '../helpers/gguf-writer.js';

const GGUF = tinyModelGguf({ scale: 0.3 });

describe('loadModel', () => {
  it('gives the engine, and the reference on request', async () => {
    const { model: engine } = await loadModel(GGUF, { threads: 1 });
    const { model: reference } = await loadModel(GGUF, { backend: 'reference' });
    expect([engine.backend, reference.backend]).toEqual(['wasm', 'reference']);
    expect(engine).toMatchObject({ threads: 1, keyWeights: 'exact' });
    await engine.dispose();
    await reference.dispose();
  });

  it.each(BACKENDS)('%s: await using gives the model back', async (backend) => {
    let kept: LanguageModel;
    {
      const { model: loaded, tokenizer } = await loadModel(GGUF, { backend });
      await using model = loaded;
      kept = model;
      const { ids } = await generate(model, tokenizer, 'in the', { maxTokens: 3, ignoreEos: true }).finish();
      expect(ids).toHaveLength(3);
    }
    await expect((async () => kept.forward([1], kept.createCache('kv')))()).rejects.toThrow(DisposedError);
    await kept.dispose(); // a second time does nothing
  });

  it('refuses what is not for the backend, and says which option', async () => {
    await expect(loadModel(GGUF, { backend: 'cuda' as 'wasm' })).rejects.toThrow(
      /"backend" must be wasm or ref/,
    );
    await expect(loadModel(GGUF, { backend: 'reference', kernel: 'simd' })).rejects.toThrow(ConfigError);
    await expect(loadModel(GGUF, { threads: 1, memoryLimit: 100_000 })).rejects.toThrow(MemoryError);
    await expect(loadModel(GGUF, { keyWeights: 'int4' as 'int8' })).rejects.toThrow(/"keyWeights" must be/);
  });
});
