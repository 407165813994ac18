import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ConfigError } from '../../src/errors.js';
import { StopFilter } from '../../src/stop-filter.js';

describe('stop strings', () => {
  const piece = fc.stringMatching(/^[ab]{0,5}$/);
  propertyTest.prop([
    fc.array(piece, { maxLength: 12 }),
    fc.array(fc.stringMatching(/^[ab]{1,4}$/), { maxLength: 3 }),
  ])('however the text is cut, what is shown is what stands before the first of them', (pieces, stops) => {
    const text = pieces.join('');
    const places = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    const expected = places.length > 0 ? text.slice(0, Math.min(...places)) : text;

    const filter = new StopFilter(stops);
    let shown = '';
    let stopped = false;
    for (const [i, each] of [...pieces, ''].entries()) {
      if (stopped) break;
      const out = filter.push(each, i === pieces.length);
      shown += out.text;
      stopped = out.stopped;
    }
    expect(stopped).toBe(places.length > 0);
    // With several stop strings one may be complete while an earlier, longer one is still open.
    if (stops.length < 2) expect(shown).toBe(expected);
    else expect(expected.startsWith(shown) || shown.startsWith(expected)).toBe(true);
  });

  const parts = fc.array(fc.record({ text: piece, hidden: fc.stringMatching(/^[ab]{0,3}$/) }), {
    maxLength: 8,
  });
  propertyTest.prop([parts, fc.stringMatching(/^[ab]{1,4}$/)])(
    'are found in text that is not shown, too, and none of that is shown',
    (parts, stop) => {
      const whole = parts.map(({ text, hidden }) => hidden + text).join('');
      const at = whole.indexOf(stop);
      const filter = new StopFilter([stop]);
      let shown = '';
      let stopped = false;
      for (const [i, { text, hidden }] of [...parts, { text: '', hidden: '' }].entries()) {
        if (stopped) break;
        const out = filter.push(text, i === parts.length, hidden);
        shown += out.text;
        stopped = out.stopped;
      }
      expect(stopped).toBe(at >= 0);
      let place = 0;
      let expected = '';
      for (const { text, hidden } of parts) {
        place += hidden.length;
        expected += at < 0 ? text : text.slice(0, Math.max(0, at - place));
        place += text.length;
      }
      expect(shown).toBe(expected);
    },
  );

  it('must not be empty', () => {
    expect(() => new StopFilter([''])).toThrow(ConfigError);
  });
});
