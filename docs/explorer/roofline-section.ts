/**
 * Up to which length rematerialization is hidden on a device.
 *
 * @module
 */

import {
  DEVICES,
  type Device,
  hiddenTokens,
  type RooflineLayer,
  ridgePoint,
} from '../../ts/src/analysis/roofline.js';
import { byId, formatCount, make } from './dom.js';
import { drawRoofline } from './roofline-chart.js';

/** The layers of the paper: hidden size 4096; with GQA, 4 query heads for each KV head. */
const LAYER = { hiddenSize: 4096, kvDim: 4096 } as const;
const GROUPED_LAYER = { hiddenSize: 4096, kvDim: 1024 } as const;

const TITLES = {
  mha: 'multi-head attention, hidden size 4096',
  gqa: 'grouped-query attention, 4 query heads for each KV head',
} as const;

/** Sets the section up. */
export function rooflineSection(): void {
  const device = byId('device', HTMLSelectElement);
  const teraflops = byId('teraflops', HTMLInputElement);
  const bandwidth = byId('bandwidth', HTMLInputElement);
  const method = byId('method', HTMLSelectElement);
  const bits = byId('bits', HTMLSelectElement);
  const note = byId('roofline-note', HTMLElement);
  const chart = byId('roofline', HTMLElement);
  let drawnWidth = 0;

  function draw(): void {
    const [peak, memory] = [teraflops.valueAsNumber, bandwidth.valueAsNumber];
    if (!(peak > 0 && memory > 0)) {
      note.textContent = 'Both numbers of the device must be above zero.';
      chart.replaceChildren();
      return;
    }
    const chosen = { name: '', peakFlops: peak * 1e12, bandwidth: memory * 1e9, source: '' };
    const suffix = method.value === 'xquant-cl' ? '-cl' : '';
    const layers: Readonly<Record<'mha' | 'gqa', RooflineLayer>> = {
      mha: { ...LAYER, form: `mha${suffix}`, bits: Number(bits.value) },
      gqa: { ...GROUPED_LAYER, form: `gqa${suffix}`, bits: Number(bits.value) },
    };
    const text = describe(chosen, layers.mha, layers.gqa, method.value);
    note.textContent = text;
    drawnWidth = chart.clientWidth;
    const legend = make('ul', { class: 'legend' });
    for (const form of ['mha', 'gqa'] as const) {
      legend.append(make('li', {}, make('i', { class: form, 'aria-hidden': 'true' }), TITLES[form]));
    }
    chart.replaceChildren(drawRoofline(chosen, layers, drawnWidth, text), legend);
  }

  function choose(): void {
    const chosen: Device | undefined = Object.values(DEVICES)[Number(device.value)];
    if (device.value !== '' && chosen) {
      teraflops.value = String(chosen.peakFlops / 1e12);
      bandwidth.value = String(chosen.bandwidth / 1e9);
      byId('device-note', HTMLElement).textContent = `Numbers of the ${chosen.name}: ${chosen.source}.`;
    } else {
      byId('device-note', HTMLElement).textContent = '';
    }
    draw();
  }

  for (const [index, { name }] of Object.values(DEVICES).entries()) {
    device.append(make('option', { value: String(index) }, name));
  }
  device.append(make('option', { value: '' }, 'another one'));
  device.addEventListener('change', choose);
  for (const field of [teraflops, bandwidth]) {
    field.addEventListener('input', () => {
      device.value = '';
      choose();
    });
  }
  for (const field of [method, bits]) field.addEventListener('change', draw);
  new ResizeObserver(() => {
    if (chart.clientWidth !== drawnWidth) draw();
  }).observe(chart);
  choose();
}

/** Says in words what the chart shows. */
function describe(device: Device, mha: RooflineLayer, gqa: RooflineLayer, method: string): string {
  const limit = (layer: RooflineLayer) => {
    const tokens = hiddenTokens(layer, device);
    return tokens === Number.POSITIVE_INFINITY ? 'any length' : `${formatCount(tokens)} tokens`;
  };
  return (
    `The device can do ${ridgePoint(device).toFixed(0)} FLOPs in the time of reading one byte. With ${method} at ` +
    `${mha.bits} bit${mha.bits === 1 ? '' : 's'}, rematerialization stays hidden up to ${limit(mha)} with multi-head ` +
    `attention and up to ${limit(gqa)} with 4 query heads for each KV head.`
  );
}
