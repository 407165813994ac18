/**
 * What all sections of the page share: the worker, the model, one thing at a time, and what is said about it.
 *
 * @module
 */

import { XQuantError } from '../../ts/src/errors.js';
import { Client } from './client.js';
import { byId, formatBytes, formatCount } from './dom.js';
import type { Activity, LoadedInfo } from './protocol.js';

/** What an error code means to a reader who does not know the library. */
const ADVICE: Readonly<Record<string, string>> = {
  FORMAT: 'The file is damaged or is not what it claims to be. ',
  UNSUPPORTED_MODEL: 'This model cannot be run here. ',
  MEMORY: 'There is not enough memory: close other tabs, or take a smaller model or a shorter text. ',
  KERNEL: 'The engine cannot run. ',
  LOAD: 'The model could not be loaded. ',
};

/** Shared by the sections. */
export class App {
  readonly client: Client;
  readonly #status = byId('status', HTMLElement);
  readonly #announcement = byId('announcement', HTMLElement);
  readonly #progress = byId('progress', HTMLProgressElement);
  readonly #error = byId('error', HTMLElement);
  readonly #stop = byId('stop', HTMLButtonElement);
  readonly #actions: HTMLButtonElement[] = [];
  /** Loads the model that is chosen, unless it is there; set by the section that chooses. */
  loadModel: () => Promise<LoadedInfo> = () => Promise.reject(new Error('no section loads a model'));
  /** The model that is loaded. */
  model: LoadedInfo | undefined;
  #busy = false;
  #dead = false;

  constructor() {
    this.client = new Client((reason) => this.fail(`The explorer cannot run here: ${reason}`));
    this.#stop.addEventListener('click', () => this.client.stop());
    document.addEventListener('keydown', ({ key }) => {
      if (key === 'Escape') this.client.stop();
    });
  }

  /** Makes a button start an action. */
  button(id: string, action: () => Promise<void>): HTMLButtonElement {
    const button = byId(id, HTMLButtonElement);
    button.addEventListener('click', (event) => {
      event.preventDefault();
      void this.run(action);
    });
    this.manage(button);
    return button;
  }

  /** Shows on a button whether something runs. */
  manage(button: HTMLButtonElement): void {
    this.#actions.push(button);
  }

  /** Runs one thing at a time and shows what went wrong. */
  async run(action: () => Promise<void>): Promise<void> {
    if (this.#busy || this.#dead) return;
    this.#setBusy(true);
    this.#error.hidden = true;
    try {
      await action();
    } catch (error) {
      if (error instanceof Error && error.name === 'AbortError') {
        this.say('Stopped.');
      } else {
        this.say('Ready.');
        this.#error.textContent = explain(error);
        this.#error.hidden = false;
      }
    } finally {
      this.#setBusy(false);
    }
  }

  /**
   * Says what is being done.
   *
   * @param part how much of it is done, from 0 to 1; this is shown and not read out
   */
  say(text: string, part?: number): void {
    this.#status.textContent = text;
    if (part === undefined) this.#announcement.textContent = text;
    this.#progress.hidden = part === undefined;
    if (part !== undefined) this.#progress.value = part;
  }

  /** Says what the worker is doing. */
  readonly show = (activity: Activity): void => {
    if (activity.kind === 'doing') this.say(`${activity.what}…`);
    if (activity.kind === 'loading') {
      const { loadedBytes, totalBytes } = activity.progress;
      const of = totalBytes ? ` of ${formatBytes(totalBytes)}` : '';
      this.say(`Loading the model: ${formatBytes(loadedBytes)}${of}`, totalBytes && loadedBytes / totalBytes);
    }
    if (activity.kind === 'measuring') {
      const { done, total } = activity;
      this.say(`Measuring: ${formatCount(done)} of ${formatCount(total)} tokens`, done / total);
    }
  };

  /** Says why nothing can be done at all. */
  fail(message: string): void {
    this.#dead = true;
    const box = byId('fatal', HTMLElement);
    box.textContent = message;
    box.hidden = false;
    this.say('Not running.');
    this.#setBusy(true);
  }

  /** A button that cannot be used keeps the focus: a reader who works with the keyboard must not lose the place. */
  #setBusy(busy: boolean): void {
    this.#busy = busy;
    for (const button of this.#actions) button.setAttribute('aria-disabled', String(busy));
    this.#stop.setAttribute('aria-disabled', String(!busy || this.#dead));
  }
}

/** An error in words for people. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const outOfMemory = error instanceof RangeError && /alloc|memory/i.test(error.message);
  const code = outOfMemory ? 'MEMORY' : error instanceof XQuantError ? error.code : '';
  return `${ADVICE[code] ?? ''}${error.message}`;
}
