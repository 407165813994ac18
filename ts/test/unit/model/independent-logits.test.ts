/**
 * The reference against a plain PyTorch Llama, which shares no code with it: logits of both embedded models,
 * computed on a GPU in f64 from the same GGUF weights (golden/models/reference_logits.py).
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { EMBEDDED_MODELS, loadModelFile } from '../../../src/io/load-model.js';
import { readSafetensors, toFloat32 } from '../../../src/io/safetensors.js';
import { referenceWeights } from '../../../src/model/weights.js';
import { row } from '../../../src/numerics/matrix.js';
import { ReferenceModel } from '../../../src/reference-model.js';

/** f32 roundings through 20 layers stay far below. */
const RELATIVE_TOLERANCE = 1e-4;

describe.each(EMBEDDED_MODELS)('%s', (name) => {
  it('has the logits of an independent implementation', async () => {
    const path = new URL(`../../../../golden/vectors/logits-${name}.safetensors`, import.meta.url);
    const { tensors } = readSafetensors(readFileSync(path), path.pathname);
    const values = (tensor: string) => toFloat32(tensors.get(tensor)!);
    const [prompts, length] = tensors.get('tokens')!.shape;
    const positions = values('positions');
    const expected = values('logits');

    const { config, weights } = await loadModelFile(name);
    const model = new ReferenceModel(config, referenceWeights(weights));
    let worst = 0;
    for (let prompt = 0; prompt < prompts; prompt++) {
      const tokens = values('tokens').subarray(prompt * length, (prompt + 1) * length);
      const logits = await model.forward(tokens, model.createCache('kv'), { logits: 'all' });
      positions.forEach((position, p) => {
        const at = (prompt * positions.length + p) * config.vocabSize;
        const theirs = expected.subarray(at, at + config.vocabSize);
        const ours = row(logits, position);
        const scale = Math.max(...theirs.map(Math.abs));
        for (let i = 0; i < ours.length; i++) worst = Math.max(worst, Math.abs(ours[i] - theirs[i]) / scale);
      });
    }
    console.log(
      `${name}: largest difference of a logit, relative to the largest logit: ${worst.toExponential(2)}`,
    );
    expect(worst).toBeLessThan(RELATIVE_TOLERANCE);
  });
});
