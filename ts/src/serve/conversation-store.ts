/**
 * Conversations that nobody is waiting for: as snapshots in memory, then on disk, then forgotten.
 *
 * A snapshot is all that an idle conversation needs: its codes, scales and newest tokens, without the exact window,
 * accumulators and headroom of a cache that runs. So a store of 512 MB holds as many conversations as their
 * snapshots have bytes, and what goes to disk is what was in memory.
 *
 * Whoever asks with a prompt gets a cache that holds the longest beginning of it that any conversation has. Blocks that
 * are sealed cannot be cut, so the beginning may end at the start of a block. The conversation stays for others.
 *
 * @module
 */

import { randomUUID } from 'node:crypto';
import type { ModelCache } from '../cache/contract.js';
import type { CacheRequest } from '../cache/options.js';
import { FormatError, XQuantError } from '../errors.js';
import { CachedSequence } from '../generate.js';
import { restoreSnapshot, type SnapshotOwner, writeSnapshot } from '../io/snapshot.js';
import type { BatchingModel } from './batching-model.js';
import type { ConversationFiles } from './conversation-files.js';

/** Places of conversations, and their limits in bytes. */
export interface ConversationStoreOptions {
  /** Model and cache of all conversations. */
  readonly owner: SnapshotOwner;
  readonly cache: CacheRequest | string;
  /** Runs the model; snapshots are taken between its passes. */
  readonly batching: BatchingModel;
  /** Bytes of snapshots in memory. */
  readonly memoryBytes: number;
  /** Place of those that do not fit; without it they are forgotten. */
  readonly files?: ConversationFiles;
  /** Bytes of files. */
  readonly diskBytes: number;
  /** Called with the failure of a file; the conversation is then forgotten. */
  readonly onProblem: (message: string) => void;
}

/** The present contents of the store. */
export interface StoreUse {
  readonly inMemory: number;
  readonly memoryBytes: number;
  readonly onDisk: number;
  readonly diskBytes: number;
}

interface Conversation {
  readonly id: string;
  readonly tokens: readonly number[];
  /** How many of the tokens were a client's: the others were generated and may be written differently when they return. */
  readonly promptTokens: number;
  readonly size: number;
  /** Absent if it is on disk only. */
  snapshot?: Uint8Array;
  isOnDisk: boolean;
}

/** A cache for one request. */
export interface TakenConversation {
  readonly sequence: CachedSequence;
  /** The conversation it was restored from. */
  readonly source: string | undefined;
}

/** See the module. */
export class ConversationStore {
  readonly #options: ConversationStoreOptions;
  readonly #empty: ModelCache;
  /** Least recently used first. */
  readonly #conversations = new Map<string, Conversation>();
  /** Changes of what is kept, one after another. */
  #turn: Promise<void> = Promise.resolve();

  private constructor(options: ConversationStoreOptions) {
    this.#options = options;
    this.#empty = options.owner.model.createCache(options.cache);
  }

  /** Opens a store, and finds what is on disk. */
  static async open(options: ConversationStoreOptions): Promise<ConversationStore> {
    const store = new ConversationStore(options);
    const { files, owner, onProblem } = options;
    const context = owner.model.config.maxPositionEmbeddings;
    const found = (await files?.find(context, ({ message }) => onProblem(message))) ?? [];
    for (const { id, tokens, generated, bytes } of found.sort((a, b) => a.usedAt - b.usedAt)) {
      const promptTokens = tokens.length - generated;
      store.#conversations.set(id, { id, tokens, promptTokens, size: bytes, isOnDisk: true });
    }
    await store.#makeRoom();
    return store;
  }

  get use(): StoreUse {
    const all = [...this.#conversations.values()];
    const inMemory = all.filter(({ snapshot }) => snapshot);
    const onDisk = all.filter(({ isOnDisk }) => isOnDisk);
    const sum = (list: readonly Conversation[]) => list.reduce((bytes, { size }) => bytes + size, 0);
    return {
      inMemory: inMemory.length,
      memoryBytes: sum(inMemory),
      onDisk: onDisk.length,
      diskBytes: sum(onDisk),
    };
  }

  /** A cache that holds nothing. */
  fresh(): TakenConversation {
    return { sequence: new CachedSequence(this.#empty.clone()), source: undefined };
  }

  /**
   * A cache with the longest beginning of a prompt that is known, perhaps none.
   *
   * @throws {MemoryError} if the model has no room for it
   */
  async take(prompt: readonly number[]): Promise<TakenConversation> {
    const { batching, owner, onProblem } = this.#options;
    for (;;) {
      const best = this.#longest(prompt);
      if (!best) return this.fresh();
      try {
        const bytes = best.snapshot ?? (await this.#options.files?.read(best.id));
        if (!bytes) throw new FormatError(best.id, 'file', 'is gone');
        const sequence = await batching.atRest(() => {
          const { cache, tokens } = restoreSnapshot(bytes, best.id, owner);
          const restored = new CachedSequence(cache, tokens);
          restored.keepPrefix(prompt);
          return restored;
        });
        this.#touch(best);
        return { sequence, source: best.id };
      } catch (error) {
        const isDamaged = error instanceof FormatError || (error as NodeJS.ErrnoException).code === 'ENOENT';
        if (!isDamaged) throw error;
        onProblem(`a conversation is lost: ${(error as Error).message}`);
        await this.#forget(best);
      }
    }
  }

  /**
   * Keeps a conversation whose request has ended, and frees its cache. The one it came from is replaced if it was its
   * beginning.
   *
   * @param generated how many of the newest tokens were generated
   */
  async keep({ sequence, source }: TakenConversation, generated: number): Promise<void> {
    const { batching, owner } = this.#options;
    const { cache, tokens } = sequence;
    if (tokens.length === 0 || tokens.length !== cache.length) {
      cache.dispose();
      return;
    }
    const { fingerprint } = owner;
    const own = Math.min(generated, tokens.length);
    const snapshot = await batching.atRest(() => {
      const bytes = writeSnapshot({ cache, tokens, generated: own, fingerprint });
      cache.dispose();
      return bytes;
    });
    const kept: Conversation = {
      id: randomUUID(),
      tokens: [...tokens],
      promptTokens: tokens.length - own,
      size: snapshot.length,
      snapshot,
      isOnDisk: false,
    };
    await this.#inTurn(async () => {
      for (const other of this.#conversations.values()) {
        const shared = sharedLength(other.tokens, kept.tokens);
        const needed = other.id === source ? other.promptTokens : other.tokens.length;
        if (shared >= needed) await this.#forget(other);
      }
      this.#conversations.set(kept.id, kept);
      await this.#makeRoom();
    });
  }

  /** Writes everything to disk, if there is a folder: for the next start. */
  async saveAll(): Promise<void> {
    if (!this.#options.files) return;
    await this.#inTurn(async () => {
      for (const conversation of this.#conversations.values()) await this.#write(conversation);
      await this.#makeRoom();
    });
  }

  /** The conversation with the longest usable beginning of a prompt. */
  #longest(prompt: readonly number[]): Conversation | undefined {
    const block = this.#empty.options.residualWindow;
    let best: Conversation | undefined;
    let length = 0;
    for (const conversation of this.#conversations.values()) {
      const { tokens } = conversation;
      let shared = Math.min(sharedLength(tokens, prompt), prompt.length - 1);
      if (shared < tokens.length - (tokens.length % block)) shared -= shared % block;
      // The newest of equals: its conversation is likeliest to continue.
      if (shared > 0 && shared >= length) [best, length] = [conversation, shared];
    }
    return best;
  }

  /** Makes a conversation the most recently used. */
  #touch(conversation: Conversation): void {
    if (this.#conversations.delete(conversation.id)) this.#conversations.set(conversation.id, conversation);
  }

  async #forget({ id, isOnDisk }: Conversation): Promise<void> {
    this.#conversations.delete(id);
    if (isOnDisk) await this.#options.files?.remove(id);
  }

  /** Moves the least recently used out of memory, and off the disk, until the rest fits. */
  async #makeRoom(): Promise<void> {
    const { memoryBytes, diskBytes } = this.#options;
    for (const conversation of [...this.#conversations.values()]) {
      if (this.use.memoryBytes <= memoryBytes) break;
      if (!conversation.snapshot) continue;
      await this.#write(conversation);
      conversation.snapshot = undefined;
      if (!conversation.isOnDisk) await this.#forget(conversation);
    }
    for (const conversation of [...this.#conversations.values()]) {
      if (this.use.diskBytes <= diskBytes) break;
      if (!conversation.isOnDisk) continue;
      await this.#options.files?.remove(conversation.id);
      conversation.isOnDisk = false;
      if (!conversation.snapshot) await this.#forget(conversation);
    }
  }

  async #write(conversation: Conversation): Promise<void> {
    const { files, diskBytes, onProblem } = this.#options;
    if (!files || !conversation.snapshot || conversation.isOnDisk || conversation.size > diskBytes) return;
    try {
      await files.write(conversation.id, conversation.snapshot);
      conversation.isOnDisk = true;
    } catch (error) {
      if (!(error instanceof XQuantError)) throw error;
      onProblem(`a conversation could not be saved: ${error.message}`); // a full disk must not end the server
    }
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }
}

/** Length of the longest common beginning. */
function sharedLength(a: readonly number[], b: readonly number[]): number {
  const limit = Math.min(a.length, b.length);
  let shared = 0;
  while (shared < limit && a[shared] === b[shared]) shared++;
  return shared;
}
