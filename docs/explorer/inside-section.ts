/**
 * Inside one layer: what a cache stores, as pictures.
 *
 * @module
 */

import type { App } from './app.js';
import { byId, make } from './dom.js';
import { codeMap, rootMeanSquare, usualMagnitude, valueMap } from './heat-map.js';
import type { LaneView } from './lane.js';
import type { Inspection, LoadedInfo } from './protocol.js';
import { describeBits, drawSpectrum } from './spectrum.js';

/** The section, as far as others know it. */
export interface InsideSection {
  /** Another model is loaded. */
  setModel(model: LoadedInfo): void;
}

/** Sets the section up. */
export function insideSection(app: App, lanes: readonly LaneView[]): InsideSection {
  const lane = byId('inside-lane', HTMLSelectElement);
  const layer = byId('layer', HTMLInputElement);
  const tensor = byId('tensor', HTMLSelectElement);
  const text = byId('text', HTMLTextAreaElement);
  let inspection: Inspection | undefined;
  let running = false;
  let again = false;

  /** A slider moves faster than a model runs: what is asked for meanwhile is done once, at the end. */
  async function refresh(): Promise<void> {
    again = true;
    if (running) return;
    running = true;
    await app.run(async () => {
      await app.loadModel();
      while (again) {
        again = false;
        await inspect();
      }
      app.say('Done.');
    });
    again = false;
    running = false;
  }

  async function inspect(): Promise<void> {
    const { cache } = lanes[Number(lane.value)];
    const body = { text: text.value, cache, layer: Number(layer.value) };
    inspection = await app.client.request('inspect', body, app.show);
    const before = tensor.value;
    const options = inspection.views.map(({ name, title }) => make('option', { value: name }, title));
    tensor.replaceChildren(...options);
    tensor.value = options.some(({ value }) => value === before) ? before : options[0].value;
    byId('tensor-field', HTMLElement).hidden = options.length < 2;
    draw();
  }

  function draw(): void {
    const view = inspection?.views.find(({ name }) => name === tensor.value);
    if (!view || !inspection) return;
    const { exact, restored, codes, rows, columns, title, symbol, bits } = view;
    const difference = exact.map((value, i) => value - restored[i]);
    const limit = usualMagnitude(exact);
    const errorLimit = usualMagnitude(difference);
    const size = { rows, columns };
    const range = (value: number) => `from −${value.toPrecision(3)} (blue) to ${value.toPrecision(3)} (red)`;
    const relative = rootMeanSquare(difference) / rootMeanSquare(exact);
    const restoredSymbol = symbol.length === 1 ? `${symbol}\u0302` : symbol; // with a hat, as in the paper
    const maps = [
      valueMap(exact, limit, { ...size, title: `${symbol}, as it was`, caption: range(limit) }),
      valueMap(restored, limit, {
        ...size,
        title: `${restoredSymbol}, as it comes back`,
        caption: range(limit),
      }),
      valueMap(difference, errorLimit, { ...size, title: 'Difference', caption: range(errorLimit) }),
    ];
    if (codes) {
      const largest = 2 ** bits - 1;
      const unit = bits === 1 ? 'bit' : 'bits';
      const range = inspection.spectrum
        ? 'least (dark) to largest (bright)'
        : `${bits} ${unit}: 0 (dark) to ${largest} (bright)`;
      const caption = `${view.codesTitle}, ${range}`;
      maps.push(codeMap(codes, largest, { rows, columns: view.codeColumns, title: 'Stored codes', caption }));
    }
    byId('maps', HTMLElement).replaceChildren(...maps);
    const { spectrum } = inspection;
    const chart = byId('spectrum', HTMLElement);
    chart.hidden = spectrum === undefined;
    const channels = spectrum ? ` Channels: ${describeBits(spectrum.bits)}.` : '';
    if (spectrum)
      chart.replaceChildren(
        drawSpectrum(spectrum, `Importance of the channels of layer ${inspection.layer}.${channels}`),
      );
    byId('inside-note', HTMLElement).textContent =
      `Layer ${inspection.layer}: ${title}, ${rows} tokens by ${columns} channels. Relative error ` +
      `${(100 * relative).toPrecision(3)} %${codes ? '' : '; kept in f16, so there are no codes'}.${channels}`;
  }

  function showLayer(): void {
    byId('layer-value', HTMLElement).textContent = `${layer.value} (0 to ${layer.max})`;
  }

  app.manage(byId('inspect', HTMLButtonElement));
  byId('inspect', HTMLButtonElement).addEventListener('click', () => void refresh());
  layer.addEventListener('input', () => {
    showLayer();
    if (inspection) void refresh();
  });
  lane.addEventListener('change', () => {
    if (inspection) void refresh();
  });
  tensor.addEventListener('change', draw);
  showLayer();

  return {
    setModel({ config }) {
      const last = config.numHiddenLayers - 1;
      layer.max = String(last);
      if (Number(layer.value) > last) layer.value = String(last);
      showLayer();
    },
  };
}
