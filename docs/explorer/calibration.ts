/**
 * The calibration of the model of a page: fetched or read when a cache first needs it.
 *
 * @module
 */

import { OpfsStorage } from '../../ts/src/browser/opfs-storage.js';
import { StoredFetch } from '../../ts/src/browser/stored-fetch.js';
import type { ComputedFactors } from '../../ts/src/cache/factors.js';
import { resolveCacheOptions } from '../../ts/src/cache/presets.js';
import { ConfigError } from '../../ts/src/errors.js';
import { readCalibrationFile } from '../../ts/src/io/calibration-file.js';
import { tryHttpSource } from '../../ts/src/io/http-source.js';
import type { FactorOwner } from '../../ts/src/io/svd-factors.js';

/** See the module. */
export class PageCalibration {
  readonly #source: string | File | undefined;
  readonly #factors: ComputedFactors;
  readonly #owner: FactorOwner;
  readonly #isKept: boolean;
  #isThere = false;

  /**
   * @param source a file, or the URL where there may be one
   * @param isKept whether what is fetched stays in the browser
   */
  constructor(
    source: string | File | undefined,
    factors: ComputedFactors,
    owner: FactorOwner,
    isKept: boolean,
  ) {
    this.#source = source;
    this.#factors = factors;
    this.#owner = owner;
    this.#isKept = isKept;
  }

  /**
   * Makes the calibration known to the model if a cache needs it.
   *
   * @throws {ConfigError} if there is none
   * @throws {FormatError} if it is damaged, or of another model
   */
  async prepare(caches: readonly string[], signal: AbortSignal): Promise<void> {
    const { config } = this.#owner;
    if (this.#isThere || !caches.some((cache) => resolveCacheOptions(cache, config).form === 'calibrated'))
      return;
    const bytes = await this.#read(signal);
    if (!bytes) {
      const allowed = 'a file made for this model by "xquant calibrate"; choose it beside the model';
      throw new ConfigError('calibration', 'none', allowed);
    }
    const name = this.#source instanceof File ? this.#source.name : String(this.#source);
    this.#factors.presetCalibration('calibrated', readCalibrationFile(bytes, name, this.#owner));
    this.#isThere = true;
  }

  async #read(signal: AbortSignal): Promise<Uint8Array | undefined> {
    if (this.#source === undefined) return undefined;
    if (this.#source instanceof File) return new Uint8Array(await this.#source.arrayBuffer());
    const stored = this.#isKept ? new StoredFetch(new OpfsStorage()) : undefined;
    try {
      const source = await tryHttpSource(this.#source, { signal, fetch: stored?.fetch });
      return source && (await source.read(0, source.size)).slice();
    } finally {
      await stored?.close();
    }
  }
}
