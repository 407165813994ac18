import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Progress, withProgress, withStatus } from '../../../src/cli/progress.js';
import { fakeTerminal } from '../../helpers/fake-terminal.js';

describe('a bar', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('appears after a second, even if nothing was reported yet', () => {
    const terminal = fakeTerminal(true);
    const progress = new Progress(terminal, 'loading');
    vi.advanceTimersByTime(900);
    progress.update(1, 10);
    expect(terminal.written()).toBe('');
    vi.advanceTimersByTime(200);
    expect(terminal.written()).toMatch(/loading .*10% \| 9 s left/);
    progress.stop();
  });

  it('tells the time that is left', () => {
    const terminal = fakeTerminal(true);
    const progress = new Progress(terminal, 'svd');
    vi.advanceTimersByTime(20_000);
    progress.update(1, 10);
    expect(terminal.written()).toMatch(/3 min 0 s left/);
    progress.stop();
  });

  it('never appears for short work, or where nobody looks', async () => {
    const quick = fakeTerminal(true);
    await withProgress(quick, 'loading', async (update) => update(1, 2));
    vi.advanceTimersByTime(5000);
    expect(quick.written()).toBe('');

    const piped = fakeTerminal(false);
    const progress = new Progress(piped, 'loading');
    vi.advanceTimersByTime(5000);
    progress.update(1, 2);
    progress.stop();
    expect(piped.written()).toBe('');
  });

  it('goes away when the work fails', async () => {
    const terminal = fakeTerminal(true);
    const work = withProgress(terminal, 'loading', async () => {
      vi.advanceTimersByTime(2000);
      throw new Error('no');
    });
    await expect(work).rejects.toThrow('no');
    const shown = terminal.written();
    vi.advanceTimersByTime(5000);
    expect(terminal.written()).toBe(shown);
  });
});

describe('a status', () => {
  it('is shown on a terminal and removed', () => {
    const terminal = fakeTerminal(true);
    expect(withStatus(terminal, 'tokenizing', () => 7)).toBe(7);
    expect(terminal.written()).toBe('tokenizing ...\r\x1b[K');
    const piped = fakeTerminal(false);
    withStatus(piped, 'tokenizing', () => 7);
    expect(piped.written()).toBe('');
  });
});
