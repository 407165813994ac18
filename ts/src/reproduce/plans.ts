/**
 * Which caches an evaluation runs: those of the paper's tables (XQuant Table 1 and Table 4), the steps from the paper's
 * encoder to the tuned one, and calibrated caches beside what else users have.
 *
 * @module
 */

import { carrierOf } from '../cache/calibration.js';
import { layoutSizes } from '../cache/layout.js';
import type { CacheModelShape } from '../cache/options.js';
import { ConfigError } from '../errors.js';

/** What an evaluation runs. */
export type PlanName = 'paper' | 'tuned' | 'calibrated' | 'all';

/** The choices of {@link PlanName}. */
export const PLANS: readonly PlanName[] = ['paper', 'tuned', 'calibrated', 'all'];

/** Series of the figures. */
export type CacheFamily =
  | 'KIVI*'
  | 'KVQuant'
  | 'llama.cpp'
  | 'Lloyd-Max'
  | 'XQuant'
  | 'XQuant-CL'
  | 'XQuant tuned'
  | 'XQuant-CL tuned'
  | 'XQuant calibrated'
  | 'XQuant-CL calibrated';

/** One row of the tables. */
export interface PlannedCache {
  /** The cache argument, or a name of rotated-caches.ts; identifies the row. */
  readonly cache: string;
  /** For people. */
  readonly label: string;
  readonly family: CacheFamily;
  readonly bits: number;
  /** Tables that have the row. */
  readonly tables: readonly TableName[];
}

/** Tables of the report. */
export type TableName = 'plain' | 'firstLayers' | 'outlierChannel' | 'ladder' | 'tuned' | 'calibrated';

/**
 * The caches of a plan for a model, each once.
 *
 * @throws {ConfigError} if there is no such plan
 */
export function plannedCaches(plan: PlanName, shape: CacheModelShape): PlannedCache[] {
  if (!PLANS.includes(plan)) throw new ConfigError('plan', plan, PLANS.join(', '));
  const rows: PlannedCache[] = [];
  if (plan === 'paper' || plan === 'all') rows.push(...paperCaches(shape));
  if (plan === 'tuned' || plan === 'all') rows.push(...tunedCaches(shape));
  if (plan === 'calibrated' || plan === 'all') rows.push(...calibratedCaches(shape));
  const merged = new Map<string, PlannedCache>();
  for (const row of rows) {
    const known = merged.get(row.cache);
    merged.set(row.cache, known ? { ...known, tables: [...known.tables, ...row.tables] } : row);
  }
  return [...merged.values()];
}

/** Whether a model has as many KV heads as query heads. */
export function isMultiHead({ numAttentionHeads, numKeyValueHeads }: CacheModelShape): boolean {
  return numAttentionHeads === numKeyValueHeads;
}

/**
 * The caches that quantize one layer to 2 bits and all others to 8, where nothing is lost.
 *
 * @returns by layer
 */
export function singleLayerCaches({ numHiddenLayers: layers }: CacheModelShape): string[] {
  return Array.from({ length: layers }, (_, layer) => {
    const others = `firstLayers=${layer}&firstBits=8&lastLayers=${layers - 1 - layer}&lastBits=8`;
    return `xquant:2@paper?${others}`;
  });
}

function paperCaches(shape: CacheModelShape): PlannedCache[] {
  const first = Math.min(3, shape.numHiddenLayers);
  const firstLayers = `firstLayers=${first}`;
  const rows: PlannedCache[] = [];
  const add = (family: CacheFamily, bits: number, cache: string, tables: TableName[], suffix = '') => {
    rows.push({ cache, label: `${family}-${bits}${suffix}`, family, bits, tables });
  };
  for (const bits of [4, 3, 2]) add('KIVI*', bits, `kivi:${bits}`, ['plain']);
  // KVQuant has no layers of its own width; it is in both tables, as in the paper.
  for (const bits of [4, 3, 2]) add('KVQuant', bits, `kvquant:${bits}`, ['plain', 'firstLayers'], '-1%');
  for (const bits of [8, 4, 3]) add('XQuant', bits, `xquant:${bits}@paper`, ['plain']);
  add('XQuant', 2, 'xquant:2@paper', isMultiHead(shape) ? ['plain'] : ['plain', 'outlierChannel']);
  const suffix = `, first ${first} layers 4 bit`;
  for (const bits of [3, 2]) add('KIVI*', bits, `kivi:${bits}?${firstLayers}`, ['firstLayers'], suffix);
  for (const bits of [3, 2]) {
    add('XQuant', bits, `xquant:${bits}@paper?${firstLayers}`, ['firstLayers'], suffix);
  }
  for (const bits of [4, 3, 2]) add('XQuant-CL', bits, `xquant-cl:${bits}@paper`, ['firstLayers']);
  if (!isMultiHead(shape)) {
    add('XQuant', 2, 'xquant:2@paper?outlier=f16', ['outlierChannel'], ', f16 outlier channel');
  }
  return rows;
}

function tunedCaches(shape: CacheModelShape): PlannedCache[] {
  const rows: PlannedCache[] = [];
  const add = (
    cache: string,
    label: string,
    bits: number,
    tables: TableName[],
    family: CacheFamily = 'XQuant-CL tuned',
  ) => rows.push({ cache, label, family, bits, tables });
  add('kivi:2', 'KIVI*-2', 2, ['tuned'], 'KIVI*');
  add('xquant:4@paper', 'XQuant-4', 4, ['tuned'], 'XQuant');
  add('xquant:4@tuned', 'XQuant-4, tuned', 4, ['tuned'], 'XQuant tuned');
  add('xquant:2@tuned', 'XQuant-2, tuned', 2, ['tuned'], 'XQuant tuned');

  const paper = 'xquant-cl:2@paper';
  const folded = `${paper}?deltaSpace=normalized`;
  add(paper, 'XQuant-CL-2', 2, ['ladder', 'tuned'], 'XQuant-CL');
  add(folded, '+ differences before the gain', 2, ['ladder']);
  const perToken = isMultiHead(shape) ? '' : '&keyGrouping=perToken';
  add(`${folded}&rotation=hadamard${perToken}`, '+ gain, rotation', 2, ['ladder']);
  add(`${folded}&range=mse`, '+ gain, range by squared error', 2, ['ladder']);
  add('xquant-cl:2@tuned', 'XQuant-CL-2, tuned (all three)', 2, ['ladder', 'tuned']);
  add('xquant-cl:2@tuned?baseBits=2', 'XQuant-CL-2, tuned, 2 bits in every layer', 2, ['tuned']);
  add('xquant-cl:2@tuned?group=256', 'XQuant-CL-2, tuned, groups of 256', 2, ['tuned']);
  add('xquant-cl:3@paper', 'XQuant-CL-3', 3, ['tuned'], 'XQuant-CL');
  add('xquant-cl:3@tuned', 'XQuant-CL-3, tuned', 3, ['tuned']);
  add('xquant-cl:1@tuned', 'XQuant-CL-1, tuned', 1, ['tuned']);
  if (isMultiHead(shape)) {
    // Saves nothing with multi-head attention, but shows what the singular vectors do (XQuant App. B).
    const latent = 'xquant:2@paper?form=latent';
    add(latent, 'XQuant-2 of X Uk, X Uv', 2, ['outlierChannel'], 'XQuant');
    add(
      `${latent}&outlier=f16`,
      'XQuant-2 of X Uk, X Uv, f16 outlier channel',
      2,
      ['outlierChannel'],
      'XQuant',
    );
  } else {
    add('xquant-cl:2@tuned?form=x', 'XQuant-CL-2, tuned, full-width X', 2, ['tuned']);
  }
  return rows;
}

/** Calibrated caches, what they improve on, and what users of other programs have. */
function calibratedCaches(shape: CacheModelShape): PlannedCache[] {
  const rows: PlannedCache[] = [];
  const add = (family: CacheFamily, bits: number, cache: string, label: string) =>
    rows.push({ cache, label, family, bits, tables: ['calibrated'] });
  for (const bits of [4, 2]) add('KIVI*', bits, `kivi:${bits}`, `KIVI*-${bits}`);
  add('XQuant tuned', 4, 'xquant:4@tuned', 'XQuant-4, tuned');
  for (const bits of [3, 2]) {
    add('XQuant-CL tuned', bits, `xquant-cl:${bits}@tuned`, `XQuant-CL-${bits}, tuned`);
  }
  add('llama.cpp', 8.5, 'q8_0', 'llama.cpp q8_0, heads rotated');
  add('llama.cpp', 4.5, 'q4_0', 'llama.cpp q4_0, heads rotated');
  for (const bits of [4, 3, 2])
    add('Lloyd-Max', bits, `lloyd-max:${bits}`, `Lloyd-Max-${bits}, heads rotated`);

  if (carrierOf(layoutSizes(shape)) === 'x') {
    // 9.4, 12.5, 18.8 and 26.7 times smaller than keys and values in f16, less what sinks take.
    for (const bits of [1.7, 1.275, 0.851, 0.599]) {
      add('XQuant-CL calibrated', bits, `xquant-cl:${bits}@calibrated`, `XQuant-CL-${bits}, calibrated`);
    }
    return rows;
  }
  for (const [basis, about] of Object.entries({
    head: 'a head',
    tensor: 'keys, of values',
    joint: 'a layer',
  })) {
    const option = basis === 'joint' ? '' : `?basis=${basis}`;
    const label = `XQuant-4.25, calibrated, a basis of ${about}`;
    add('XQuant calibrated', 4.25, `xquant:4.25@calibrated${option}`, label);
  }
  for (const bits of [4.25, 3.25, 2.25, 1.6, 1.25]) {
    const [cache, label] = [`xquant-cl:${bits}@calibrated`, `XQuant-CL-${bits}, calibrated`];
    if (bits !== 1.25) add('XQuant-CL calibrated', bits, cache, `${label}, from 1 layer`);
    add('XQuant-CL calibrated', bits, `${cache}?predict=2`, `${label}, from 2 layers`);
  }
  return rows;
}
