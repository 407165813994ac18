/**
 * Two caches, one seed: the prompt and the lanes.
 *
 * @module
 */

import type { App } from './app.js';
import { byId, formatBytes, formatCount, make } from './dom.js';
import { LaneView } from './lane.js';

/** Caches of the lanes at first: what everything is measured against, and our default. */
const CACHES = ['kv', 'xquant-cl:2@tuned'] as const;

/**
 * Sets the section up.
 *
 * @param onChange told when a cache of a lane changes
 * @returns the lanes
 */
export function generateSection(app: App, onChange: () => void): readonly LaneView[] {
  const prompt = byId('prompt', HTMLTextAreaElement);
  const tokens = byId('tokens', HTMLInputElement);
  const seed = byId('seed', HTMLInputElement);
  const temperature = byId('temperature', HTMLInputElement);
  const difference = byId('difference', HTMLElement);

  const lanes = CACHES.map((cache, index) => {
    const lane = new LaneView(index, cache, {
      save: () => void app.run(() => save(index)),
      open: (file) => void app.run(() => open(index, file)),
      changed: onChange,
    });
    app.manage(lane.saveButton);
    return lane;
  });
  byId('lanes', HTMLElement).append(...lanes.map(({ element }) => element));
  app.manage(byId('go', HTMLButtonElement));
  byId('generate-form', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    void app.run(generate);
  });

  async function generate(): Promise<void> {
    await app.loadModel();
    difference.textContent = '';
    const options = {
      seed: seed.valueAsNumber || 0,
      temperature: temperature.valueAsNumber || 0,
      maxTokens: Math.max(1, tokens.valueAsNumber || 1),
    };
    const body = { prompt: prompt.value, lanes: lanes.map(({ start }) => start), options };
    for (const lane of lanes) lane.begin(prompt.value);
    let parted = false;
    app.say('Starting…');
    await app.client.request('run', body, (activity) => {
      if (activity.kind !== 'lane') {
        app.show(activity);
        return;
      }
      const { report } = activity;
      lanes[report.lane].show(report);
      if (report.id === undefined) return;
      const { generated } = report;
      app.say(`Generating: token ${generated} of ${options.maxTokens}`, generated / options.maxTokens);
      const at = parted ? -1 : firstDifference(lanes);
      if (at < 0) return;
      parted = true;
      for (const lane of lanes) lane.mark(at);
      difference.textContent = `The lanes part at generated token ${formatCount(at + 1)}, which is marked.`;
    });
    const shared = Math.min(...lanes.map(({ ids }) => ids.length));
    if (!parted) difference.textContent = `Both lanes gave the same ${formatCount(shared)} tokens.`;
    app.say('Done.');
  }

  async function save(index: number): Promise<void> {
    app.say('Saving…');
    const bytes = await app.client.request('save', { lane: index });
    const url = URL.createObjectURL(new Blob([bytes], { type: 'application/octet-stream' }));
    make('a', { href: url, download: `lane-${index + 1}.xqs` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    app.say(`Saved lane ${index + 1}: ${formatBytes(bytes.length)}.`);
  }

  async function open(index: number, file: File): Promise<void> {
    await app.loadModel();
    const bytes = new Uint8Array(await file.arrayBuffer());
    const { cache, text, length } = await app.client.request('restore', {
      lane: index,
      bytes,
      name: file.name,
    });
    lanes[index].openSnapshot(cache, text, length);
    app.say(`Opened ${file.name} in lane ${index + 1}.`);
  }

  return lanes;
}

/** The first token that both lanes have and that differs; -1 if there is none. */
function firstDifference([a, b]: readonly LaneView[]): number {
  const shared = Math.min(a.ids.length, b.ids.length);
  for (let i = 0; i < shared; i++) if (a.ids[i] !== b.ids[i]) return i;
  return -1;
}
