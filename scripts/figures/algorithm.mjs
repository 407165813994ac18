/** The figures of docs/algorithm.md. */

import { arrow, box, figure, line, text } from './draw.mjs';

const LEFT = { at: 'start' };
const CODE = { style: 'code' };

/** What is stored, and what is read: a KV cache beside XQuant. */
export function rematerialization() {
  const half = (x, heading, cost, parts) => [
    text(x, 18, heading, { at: 'start', style: 'bold' }),
    text(x, 252, cost, { at: 'start', style: 'small muted' }),
    parts,
  ];
  const keyValue = half(0, 'A KV cache', 'stores 2 · kvDim · 16 bits a token', [
    box(0, 62, 36, 28, 'X'),
    line([36, 76], [54, 76], [54, 52]),
    line([54, 76], [54, 104]),
    [
      ['Wk', 'K', 38],
      ['Wv', 'V', 90],
    ].map(([weight, name, y]) => [
      arrow([54, y + 14], [78, y + 14]),
      box(78, y, 44, 28, weight),
      arrow([122, y + 14], [160, y + 14]),
      box(160, y, 96, 28, `${name}, f16`, { style: 'store' }),
      arrow([256, y + 14], [278, y + 14], [278, 184]),
    ]),
    box(190, 184, 110, 32, 'attention'),
    text(284, 148, 'read', { at: 'start', style: 'small muted' }),
  ]);
  const x = 350;
  const xquant = half(x, 'XQuant', 'stores hiddenSize · (bits + 0.25) bits a token', [
    box(x, 38, 36, 28, 'X'),
    arrow([x + 36, 52], [x + 66, 52]),
    box(x + 66, 38, 78, 28, 'quantize'),
    arrow([x + 144, 52], [x + 176, 52]),
    box(x + 176, 32, 154, 40, ['codes, scales, minima', 'a few bits'], { style: 'store' }),
    arrow([x + 253, 72], [x + 253, 96], [x + 18, 96], [x + 18, 118]),
    text(x + 136, 91, 'read', { style: 'small muted' }),
    box(x, 118, 36, 28, 'X̂'),
    line([x + 36, 132], [x + 54, 132], [x + 54, 122]),
    line([x + 54, 132], [x + 54, 166]),
    [
      ['Wk', 'K', 108],
      ['Wv', 'V', 152],
    ].map(([weight, name, y]) => [
      arrow([x + 54, y + 14], [x + 78, y + 14]),
      box(x + 78, y, 44, 28, weight),
      arrow([x + 122, y + 14], [x + 160, y + 14]),
      box(x + 160, y, 36, 28, name),
      line([x + 196, y + 14], [x + 226, y + 14]),
    ]),
    arrow([x + 226, 122], [x + 226, 184]),
    box(x + 190, 184, 110, 32, 'attention'),
  ]);
  const title =
    'A KV cache stores K and V and reads both for attention; XQuant stores the quantized X, and multiplies what it reads by Wk and Wv again';
  return figure(690, 262, title, keyValue, xquant);
}

/** The way of a token through one layer. */
export function layer() {
  const title =
    'One layer: the stream is normalized; x goes to the cache and to the queries; sealed blocks and the residual window give keys and values; RoPE, attention, Wo, sum, MLP, sum';
  return figure(
    690,
    508,
    title,
    text(0, 16, 'One layer: T new tokens, L tokens in the cache afterwards', { at: 'start', style: 'bold' }),
    box(0, 34, 190, 32, 'stream  [T, hiddenSize]'),
    line([20, 66], [20, 462]),
    arrow([20, 96], [52, 96]),
    box(52, 80, 128, 32, 'normalizeRows', { texts: 'code' }),
    arrow([180, 96], [330, 96]),
    text(254, 90, 'normalized', { style: 'small muted' }),
    box(330, 80, 100, 32, 'applyGain', { texts: 'code' }),
    arrow([430, 96], [600, 96], [600, 130]),
    text(512, 90, 'x', { style: 'small muted' }),
    box(540, 130, 120, 32, 'x Wq = queries'),
    arrow([254, 96], [254, 130]),
    arrow([380, 112], [380, 130]),
    box(130, 130, 376, 32, 'LayerCache.append({ x, normalized, stream })', { texts: 'code' }),
    arrow([230, 162], [230, 188]),
    arrow([420, 162], [420, 188]),
    box(120, 188, 210, 56, ['sealed blocks of 128 tokens', 'codes, scales, minima'], { style: 'store' }),
    box(346, 188, 170, 56, ['residual window, f16', 'the newest 0 to 127 tokens'], { style: 'store' }),
    arrow([230, 244], [230, 270]),
    arrow([420, 244], [420, 270]),
    box(120, 270, 396, 48, ['LayerCache.keysAndValues()', 'keys, values [L, kvDim], before RoPE']),
    arrow([220, 318], [220, 346]),
    arrow([600, 162], [600, 346]),
    box(150, 346, 140, 32, 'applyRope(keys)', { texts: 'code' }),
    box(520, 346, 160, 32, 'applyRope(queries)', { texts: 'code' }),
    arrow([290, 362], [330, 362]),
    arrow([520, 362], [480, 362]),
    box(330, 346, 150, 32, 'causalAttention', { texts: 'code' }),
    arrow([405, 318], [405, 346]),
    text(412, 336, 'values', { at: 'start', style: 'small muted' }),
    arrow([405, 378], [405, 400]),
    box(375, 400, 60, 28, '· Wo'),
    line([405, 428], [405, 462]),
    plus(62, 462),
    arrow([20, 462], [52, 462]),
    arrow([405, 462], [72, 462]),
    line([62, 472], [62, 494], [72, 494]),
    arrow([72, 494], [106, 494]),
    box(106, 480, 60, 28, 'mlp', { texts: 'code' }),
    arrow([166, 494], [206, 494]),
    plus(216, 494),
    line([62, 486], [62, 476]),
    arrow([226, 494], [280, 494]),
    text(288, 499, 'stream of the next layer', LEFT),
  );
}

function plus(x, y) {
  return `<circle class="box" cx="${x}" cy="${y}" r="10"/>${text(x, y + 4.5, '+')}`;
}

/** Levels of a group of 2 bits, and a number between two of them. */
export function levels() {
  const at = (code) => 40 + 170 * code;
  const x = at(1) + 46;
  return figure(
    690,
    132,
    'Four levels from min to min plus three scales; a number x lies between the levels of codes 1 and 2 and gets the nearer one',
    text(at(0), 18, 'min'),
    text(at(3), 18, 'min + (2^bits − 1) · scale'),
    line([at(0), 44], [at(3), 44]),
    [0, 1, 2, 3].map((code) => [
      `<circle class="dot" cx="${at(code)}" cy="44" r="5"/>`,
      text(at(code), 72, `code ${code}`, CODE),
    ]),
    arrow([x, 112], [x, 50]),
    text(x + 8, 112, 'x ≈ 1 · scale + min, off by at most about scale / 2', LEFT),
    text(630, 49, '2 bits: four levels', { at: 'middle', style: 'small muted' }),
  );
}

/** Groups along channels, and groups along tokens. */
export function grouping() {
  const cell = (x, y, width, height, style = 'store') =>
    `<rect class="${style}" x="${x}" y="${y}" width="${width}" height="${height}"/>`;
  const axes = (x) => [
    text(x + 16, 42, 'channels', { at: 'start', style: 'small muted' }),
    arrow([x + 76, 38], [x + 120, 38]),
    text(x - 12, 66, 'tokens', { at: 'end', style: 'small muted' }),
    arrow([x - 24, 74], [x - 24, 120]),
  ];
  const perToken = [0, 1, 2, 3].flatMap((row) =>
    [0, 1].map((column) => [
      cell(60 + 110 * column, 52 + 30 * row, 110, 30),
      text(115 + 110 * column, 71 + 30 * row, `group ${2 * row + column}`, { style: 'small' }),
    ]),
  );
  const perChannel = Array.from({ length: 8 }, (_, i) =>
    cell(420 + 27 * i, 52, 27, 120, i === 5 ? 'sum' : 'store'),
  );
  return figure(
    690,
    216,
    'perToken: a group is a run of channels of one token. perChannel: a group is 128 tokens of one channel, so that a channel of outliers is alone',
    text(60, 18, 'perToken', { at: 'start', style: 'bold' }),
    axes(60),
    perToken,
    text(60, 196, 'a group is a run of channels of one token', { at: 'start', style: 'small muted' }),
    text(420, 18, 'perChannel', { at: 'start', style: 'bold' }),
    axes(420),
    perChannel,
    text(420, 196, '128 tokens of one channel; an outlier channel is alone', {
      at: 'start',
      style: 'small muted',
    }),
  );
}

/** Positions of a sequence: sealed blocks, and the window. */
export function blocks() {
  const part = (x, width, positions, lines, style) => [
    text(x, 18, positions, { at: 'start', style: 'small muted' }),
    box(x, 26, width, 44, lines, { style }),
  ];
  return figure(
    690,
    80,
    'Positions 0 to 127 and 128 to 255 are sealed blocks; 256 to 301 are in the window, in f16',
    part(0, 250, '0 to 127', ['sealed block 0', 'quantized'], 'store'),
    part(256, 250, '128 to 255', ['sealed block 1', 'quantized'], 'store'),
    part(512, 120, '256 to 301', ['window', 'f16'], 'box'),
  );
}

/** The accumulator moving up through the layers. */
export function crossLayer() {
  const ROW = 62;
  const y = (layer) => 30 + ROW * layer;
  const rows = [0, 1, 2, 3, 4].map((layer) => {
    const top = y(layer);
    const isBase = layer < 3;
    const start = isBase
      ? arrow([96, top + 15], [236, top + 15])
      : [
          arrow([96, top + 15], [136, top + 15]),
          `<circle class="sum" cx="148" cy="${top + 15}" r="11"/>${text(148, top + 19.5, '−')}`,
          arrow([160, top + 15], [236, top + 15]),
        ];
    const kept = isBase
      ? box(346, top, 150, 30, 'stored', { style: 'store' })
      : box(346, top, 150, 30, `stored;  A := A + D̂${'₃₄'[layer - 3]}`, { style: 'store' });
    return [
      text(0, top + 20, `layer ${layer}`, { at: 'start', style: 'muted' }),
      box(60, top, 36, 30, `X${'₀₁₂₃₄'[layer]}`),
      start,
      box(236, top, 76, 30, isBase ? 'Q, 4 bits' : 'Q, 2 bits'),
      arrow([312, top + 15], [346, top + 15]),
      kept,
      text(520, top + 20, isBase ? `K, V from X̂${'₀₁₂'[layer]}` : 'K, V from A', LEFT),
    ];
  });
  const toSum = (layer, from) => [
    arrow([421, y(from) + 30], [421, y(layer)]),
    arrow([421, y(layer) - 16], [148, y(layer) - 16], [148, y(layer) + 4]),
    text(285, y(layer) - 20, 'A', { style: 'bold' }),
  ];
  return figure(
    690,
    366,
    'Layers 0 to 2 are quantized with 4 bits; the third one starts the accumulator A. Above, the difference of X and A is quantized with 2 bits and added to A, from which keys and values come',
    text(60, 16, 'write', { at: 'start', style: 'small muted' }),
    text(520, 16, 'read', { at: 'start', style: 'small muted' }),
    rows,
    toSum(3, 2),
    toSum(4, 3),
    text(429, y(2) + 42, 'the base starts it: A := X̂₂', { at: 'start', style: 'small muted' }),
    arrow([421, y(4) + 30], [421, y(4) + 56]),
    text(429, y(4) + 52, 'and so on up', { at: 'start', style: 'small muted' }),
  );
}
