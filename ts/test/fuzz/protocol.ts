/**
 * Messages between the command and the processes that try inputs.
 *
 * @module
 */

import type { Family } from './doors.js';

/** What a process shall try. */
export interface Job {
  readonly family: Family;
  /** Of fast-check: the same seed gives the same inputs. */
  readonly seed: number;
  readonly inputs: number;
  /** Whether to send every input before it is tried, to find the one that hangs. */
  readonly careful?: boolean;
  /** Instead of random inputs. Bytes are base64. */
  readonly file?: { readonly name: string; readonly bytes: string };
}

/** An input that was answered wrongly. Bytes are base64. */
export interface FoundFault {
  readonly seed: string;
  readonly bytes: string;
  readonly message: string;
}

/** What came of a job. */
export interface Outcome {
  /** Inputs by how they were answered. */
  readonly answers: Readonly<Record<string, number>>;
  readonly faults: readonly FoundFault[];
  readonly slowest: { readonly seconds: number; readonly seed: string };
  /** After a collection: objects and array buffers. */
  readonly heapBytes: number;
  readonly residentBytes: number;
}

/** What a process says. */
export type FromChild =
  | { readonly kind: 'ready' | 'alive' }
  | { readonly kind: 'trying'; readonly seed: string; readonly bytes: string }
  | ({ readonly kind: 'done' } & Outcome);
