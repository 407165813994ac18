/**
 * A storage of models in memory, for tests outside of a browser.
 *
 * @module
 */

import type { ModelStorage, StoredFile, StoredInfo } from '../../src/browser/storage.js';

interface Kept {
  info: StoredInfo | undefined;
  bytes: Uint8Array<ArrayBuffer>;
}

/** Keeps files in memory, up to a limit. */
export class MemoryStorage implements ModelStorage {
  readonly files = new Map<string, Kept>();
  /** Files that are open now. */
  opened = 0;

  /**
   * @param limitBytes of one file; writing beyond fails as in a browser
   * @param announced what `available` says
   */
  constructor(
    readonly limitBytes = Number.POSITIVE_INFINITY,
    readonly announced?: number,
  ) {}

  async open(key: string): Promise<StoredFile> {
    const kept = this.files.get(key) ?? { info: undefined, bytes: new Uint8Array(0) };
    this.files.set(key, kept);
    this.opened++;
    const storage = this;
    return {
      get info() {
        return kept.info;
      },
      read: (offset, length) => kept.bytes.slice(offset, offset + length),
      write(offset, bytes) {
        const end = offset + bytes.length;
        if (end > storage.limitBytes) throw new DOMException('full', 'QuotaExceededError');
        if (end > kept.bytes.length) {
          const larger = new Uint8Array(end);
          larger.set(kept.bytes);
          kept.bytes = larger;
        }
        kept.bytes.set(bytes, offset);
      },
      setInfo(info) {
        kept.info = info;
      },
      close: () => void this.opened--,
    };
  }

  async list(): Promise<StoredInfo[]> {
    return [...this.files.values()].flatMap(({ info }) => (info ? [info] : []));
  }

  async delete(key?: string): Promise<void> {
    if (key === undefined) this.files.clear();
    else this.files.delete(key);
  }

  async available(): Promise<number | undefined> {
    return this.announced;
  }
}
