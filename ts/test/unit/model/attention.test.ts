import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { causalAttention } from '../../../src/model/attention.js';
import { causalAttentionBlocked } from '../../../src/model/attention-blocked.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const HEAD_DIM = 8;

describe('causalAttention', () => {
  const sizes = fc.record({
    tokens: fc.integer({ min: 1, max: 70 }),
    past: fc.integer({ min: 0, max: 20 }),
    kvHeads: fc.constantFrom(1, 2),
    groupedHeads: fc.constantFrom(1, 3),
    seed: fc.nat(),
  });

  test.prop([sizes])(
    'is the softmax average by its definition',
    ({ tokens, past, kvHeads, groupedHeads, seed }) => {
      const length = past + tokens;
      const queries = gaussianMatrix(tokens, kvHeads * groupedHeads * HEAD_DIM, seed);
      const keys = gaussianMatrix(length, kvHeads * HEAD_DIM, seed + 1);
      const values = gaussianMatrix(length, kvHeads * HEAD_DIM, seed + 2);
      const result = causalAttention(queries, keys, values, HEAD_DIM);

      for (let t = 0; t < tokens; t++) {
        for (let head = 0; head < kvHeads * groupedHeads; head++) {
          const kvHead = Math.floor(head / groupedHeads);
          const weights: number[] = [];
          for (let k = 0; k <= past + t; k++) {
            let score = 0;
            for (let c = 0; c < HEAD_DIM; c++) {
              score +=
                queries.data[t * queries.columns + head * HEAD_DIM + c] *
                keys.data[k * keys.columns + kvHead * HEAD_DIM + c];
            }
            weights.push(Math.exp(score / Math.sqrt(HEAD_DIM)));
          }
          const sum = weights.reduce((a, b) => a + b);
          for (let c = 0; c < HEAD_DIM; c++) {
            const terms = weights.map(
              (w, k) => (w / sum) * values.data[k * values.columns + kvHead * HEAD_DIM + c],
            );
            const expected = terms.reduce((a, b) => a + b);
            const magnitude = terms.reduce((a, b) => a + Math.abs(b), 0);
            const actual = result.data[t * result.columns + head * HEAD_DIM + c];
            // Scores and weights are stored in f32: |score| <= 30 here, so weights carry 30 * 2^-24 relative.
            expect(Math.abs(actual - expected)).toBeLessThanOrEqual(64 * 2 ** -24 * magnitude);
          }
        }
      }
    },
  );

  test.prop([sizes, fc.constantFrom(1, 2, 7, 64, undefined), fc.constantFrom(0.1, undefined)])(
    'in blocks gives the same bits',
    ({ tokens, past, kvHeads, groupedHeads, seed }, window, scale) => {
      const length = past + tokens;
      const queries = gaussianMatrix(tokens, kvHeads * groupedHeads * HEAD_DIM, seed);
      const keys = gaussianMatrix(length, kvHeads * HEAD_DIM, seed + 1);
      const values = gaussianMatrix(length, kvHeads * HEAD_DIM, seed + 2);
      expect(causalAttentionBlocked(queries, keys, values, HEAD_DIM, { scale, window })).toEqual(
        causalAttention(queries, keys, values, HEAD_DIM, { scale, window }),
      );
    },
  );

  test.prop([sizes])('a token does not see the future', ({ tokens, past, kvHeads, groupedHeads, seed }) => {
    const length = past + tokens;
    const queries = gaussianMatrix(tokens, kvHeads * groupedHeads * HEAD_DIM, seed);
    const keys = gaussianMatrix(length, kvHeads * HEAD_DIM, seed + 1);
    const values = gaussianMatrix(length, kvHeads * HEAD_DIM, seed + 2);
    const before = causalAttention(queries, keys, values, HEAD_DIM);
    keys.data.fill(9, (length - 1) * keys.columns);
    values.data.fill(9, (length - 1) * values.columns);
    const after = causalAttention(queries, keys, values, HEAD_DIM);
    const seenBefore = (tokens - 1) * queries.columns;
    expect(after.data.subarray(0, seenBefore)).toEqual(before.data.subarray(0, seenBefore));
  });
});
