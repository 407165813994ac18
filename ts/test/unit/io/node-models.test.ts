import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { LoadError } from '../../../src/errors.js';
import { EMBEDDED_MODELS } from '../../../src/io/load-model.js';
import { embeddedModelPath, hubEnvironment } from '../../../src/io/node-models.js';

describe('embeddedModelPath', () => {
  it.each(EMBEDDED_MODELS)('finds %s in a clone', (name) => {
    expect(existsSync(embeddedModelPath(name))).toBe(true);
  });

  it('says where to get a model that an installed package does not have', () => {
    const find = () => embeddedModelPath('books-mha', tmpdir());
    expect(find).toThrow(LoadError);
    expect(find).toThrow(/golden\/models\/books-mha\.gguf from a clone of the repository/);
  });
});

describe('hubEnvironment', () => {
  afterEach(() => vi.unstubAllEnvs());

  it('reads address and token, and leaves out what is not set', () => {
    vi.stubEnv('HF_ENDPOINT', 'http://hub.example//');
    vi.stubEnv('HF_TOKEN', '');
    expect(hubEnvironment()).toEqual({ hubUrl: 'http://hub.example' });
  });
});
