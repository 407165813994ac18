/**
 * SVD factors that stay in the browser, so that a second visit does not compute them again: what io/calibration-store.ts is
 * for disks. They are read when the model is loaded, since a storage cannot be waited for when a cache is made.
 *
 * @module
 */

import { type ComputedFactors, type FactorKeeper, factorKey, type NamedFactors } from '../cache/factors.js';
import type { FactoredMatrix, LatentFactors } from '../cache/projection.js';
import { FormatError } from '../errors.js';
import { type FactorOwner, readFactors, writeFactors } from '../io/svd-factors.js';
import { messageOf } from '../printable.js';
import type { ModelStorage } from './storage.js';

/**
 * Makes what earlier visits have computed known to a model, and keeps what this one computes.
 *
 * @throws {StorageError} if the storage cannot be opened
 */
export async function keepFactors(
  storage: ModelStorage,
  factors: ComputedFactors,
  owner: FactorOwner,
): Promise<void> {
  factors.useKeeper(new StoredFactors(storage, owner, await readKept(storage, owner)));
}

class StoredFactors implements FactorKeeper {
  readonly #storage: ModelStorage;
  readonly #owner: FactorOwner;
  readonly #known: Map<string, NamedFactors>;
  /** One file is written after the other. */
  #written: Promise<void> = Promise.resolve();

  constructor(storage: ModelStorage, owner: FactorOwner, known: readonly NamedFactors[]) {
    this.#storage = storage;
    this.#owner = owner;
    this.#known = new Map(known.map((each) => [factorKey(each.layer, each.matrix), each]));
  }

  has(layer: number, matrix: FactoredMatrix): boolean {
    return this.#known.has(factorKey(layer, matrix));
  }

  factors(layer: number, matrix: FactoredMatrix): LatentFactors | undefined {
    return this.#known.get(factorKey(layer, matrix))?.factors;
  }

  calibration(): undefined {
    return undefined; // a page names its own, see `presetCalibration`
  }

  findCalibration(): undefined {
    return undefined;
  }

  keep(computed: readonly NamedFactors[]): void {
    for (const each of computed) this.#known.set(factorKey(each.layer, each.matrix), each);
    this.#written = this.#written
      .then(() => this.#write())
      // They are computed again at the next visit, which costs time and nothing else.
      .catch((error: unknown) => console.warn(`SVD factors are not kept: ${messageOf(error)}`));
  }

  async #write(): Promise<void> {
    const known = this.#known;
    const source = {
      factors: (layer: number, matrix: FactoredMatrix) => {
        const found = known.get(factorKey(layer, matrix));
        if (!found) throw new RangeError(`there are no factors ${factorKey(layer, matrix)}`);
        return found.factors;
      },
    };
    const { fingerprint } = this.#owner;
    const bytes = writeFactors([...known.values()], source, fingerprint);
    const key = keyOf(this.#owner);
    const file = await this.#storage.open(key);
    try {
      file.setInfo(undefined); // half a file is none
      file.write(0, bytes);
      file.setInfo({ key, size: bytes.length, ranges: [[0, bytes.length]], headers: {} });
    } finally {
      file.close();
    }
  }
}

/** What earlier visits have kept; a file that is damaged is forgotten. */
async function readKept(storage: ModelStorage, owner: FactorOwner): Promise<NamedFactors[]> {
  const key = keyOf(owner);
  const isThere = (await storage.list()).some((info) => info.key === key);
  if (!isThere) return []; // opening it would make an empty one
  const file = await storage.open(key);
  let bytes: Uint8Array | undefined;
  try {
    bytes = file.info && file.read(0, file.info.size);
  } finally {
    file.close();
  }
  if (!bytes) return [];
  try {
    return readFactors(bytes, key, owner);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    await storage.delete(key);
    return [];
  }
}

function keyOf({ fingerprint }: FactorOwner): string {
  return `xquant-factors:${fingerprint}`;
}
