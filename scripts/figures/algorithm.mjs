/** The figures of docs/algorithm.md. They are narrow, so that a phone shows them whole and still to be read. */

import { arrow, box, figure, line, text } from './draw.mjs';

const LEFT = { at: 'start' };
const BOLD = { at: 'start', style: 'bold' };
const NOTE = { at: 'start', style: 'small muted' };

/** What is stored, and what is read: a KV cache, and XQuant. */
export function rematerialization() {
  const top = 262;
  const title =
    'A KV cache stores K and V and reads both for attention; XQuant stores the quantized X, and multiplies what it reads by Wk and Wv again';
  return figure(
    340,
    536,
    title,
    text(0, 16, 'A KV cache', BOLD),
    text(92, 16, 'stores 2 · kvDim · 16 bits a token', NOTE),
    box(0, 68, 36, 28, 'X'),
    line([36, 82], [54, 82], [54, 58]),
    line([54, 82], [54, 110]),
    [
      ['Wk', 'K', 44],
      ['Wv', 'V', 96],
    ].map(([weight, name, y]) => [
      arrow([54, y + 14], [78, y + 14]),
      box(78, y, 44, 28, weight),
      arrow([122, y + 14], [160, y + 14]),
      box(160, y, 96, 28, `${name}, f16`, { style: 'store' }),
      line([256, y + 14], [286, y + 14]),
    ]),
    arrow([286, 58], [286, 176]),
    text(280, 160, 'read', { at: 'end', style: 'small muted' }),
    box(230, 176, 110, 30, 'attention'),
    text(0, top, 'XQuant', BOLD),
    text(92, top, 'stores hiddenSize · (bits + 0.25) bits a token', NOTE),
    box(0, top + 24, 36, 28, 'X'),
    arrow([36, top + 38], [62, top + 38]),
    box(62, top + 24, 78, 28, 'quantize'),
    arrow([140, top + 38], [166, top + 38]),
    box(166, top + 16, 174, 44, ['codes, scales, minima', 'a few bits each'], { style: 'store' }),
    arrow([253, top + 60], [253, top + 92], [18, top + 92], [18, top + 128]),
    text(136, top + 86, 'read', { style: 'small muted' }),
    box(0, top + 128, 36, 28, 'X̂'),
    line([36, top + 142], [54, top + 142], [54, top + 118]),
    line([54, top + 142], [54, top + 170]),
    [
      ['Wk', 'K', top + 104],
      ['Wv', 'V', top + 156],
    ].map(([weight, name, y]) => [
      arrow([54, y + 14], [78, y + 14]),
      box(78, y, 44, 28, weight),
      arrow([122, y + 14], [160, y + 14]),
      box(160, y, 36, 28, name),
      line([196, y + 14], [286, y + 14]),
    ]),
    arrow([286, top + 118], [286, top + 230]),
    box(230, top + 230, 110, 30, 'attention'),
  );
}

/** The way of a token through one layer. */
export function layer() {
  const code = { texts: 'code' };
  const title =
    'One layer: the stream is normalized; x goes to the cache and to the queries; sealed blocks and the residual window give keys and values; RoPE, attention, Wo, sum, MLP, sum';
  return figure(
    536,
    548,
    title,
    text(0, 16, 'One layer: T new tokens, L tokens in the cache afterwards', BOLD),
    box(0, 32, 156, 30, 'stream  [T, hiddenSize]'),
    line([16, 62], [16, 462]),
    arrow([16, 95], [40, 95]),
    box(40, 80, 110, 30, 'normalizeRows', code),
    arrow([150, 95], [230, 95]),
    text(190, 89, 'normalized', { style: 'small muted' }),
    box(230, 80, 84, 30, 'applyGain', code),
    arrow([314, 95], [470, 95], [470, 130]),
    text(392, 89, 'x', { style: 'small muted' }),
    box(410, 130, 120, 30, 'x Wq = queries'),
    arrow([190, 95], [190, 130]),
    arrow([272, 110], [272, 130]),
    box(40, 130, 340, 30, 'LayerCache.append({ x, normalized, stream })', code),
    arrow([130, 160], [130, 186]),
    arrow([300, 160], [300, 186]),
    box(40, 186, 172, 52, ['sealed blocks of 128', 'codes, scales, minima'], { style: 'store' }),
    box(222, 186, 158, 52, ['residual window, f16', 'newest 0 to 127 tokens'], { style: 'store' }),
    arrow([130, 238], [130, 264]),
    arrow([300, 238], [300, 264]),
    box(40, 264, 340, 48, ['LayerCache.keysAndValues()', 'keys, values [L, kvDim], keys before RoPE']),
    arrow([105, 312], [105, 346]),
    text(112, 334, 'keys', NOTE),
    arrow([281, 312], [281, 346]),
    text(288, 334, 'values', NOTE),
    arrow([470, 160], [470, 346]),
    box(40, 346, 130, 30, 'applyRope(keys)', code),
    box(216, 346, 130, 30, 'causalAttention', code),
    box(384, 346, 150, 30, 'applyRope(queries)', code),
    arrow([170, 361], [216, 361]),
    arrow([384, 361], [346, 361]),
    arrow([281, 376], [281, 400]),
    box(251, 400, 60, 28, '· Wo'),
    line([281, 428], [281, 462]),
    arrow([16, 462], [50, 462]),
    arrow([281, 462], [70, 462]),
    line([60, 472], [60, 530]),
    arrow([60, 496], [100, 496]),
    box(100, 482, 60, 28, 'mlp', code),
    arrow([160, 496], [206, 496]),
    arrow([60, 530], [216, 530], [216, 506]),
    plus(60, 462),
    plus(216, 496),
    arrow([226, 496], [262, 496]),
    text(268, 500, 'stream of the next layer', LEFT),
  );
}

function plus(x, y) {
  return `<circle class="box" cx="${x}" cy="${y}" r="10"/>${text(x, y + 4.5, '+')}`;
}

/** Levels of a group of 2 bits, and a number between two of them. */
export function levels() {
  const at = (code) => 30 + 130 * code;
  const x = at(1) + 40;
  return figure(
    460,
    132,
    'Four levels from min to min plus three scales; a number x lies between the levels of codes 1 and 2 and gets the nearer one',
    text(at(0), 18, 'min'),
    text(450, 18, 'min + (2^bits − 1) · scale', { at: 'end' }),
    text(at(1) + 10, 18, '2 bits: four levels', { style: 'small muted' }),
    line([at(0), 44], [at(3), 44]),
    [0, 1, 2, 3].map((code) => [
      `<circle class="dot" cx="${at(code)}" cy="44" r="5"/>`,
      text(at(code), 72, `code ${code}`, { style: 'code' }),
    ]),
    arrow([x, 104], [x, 50]),
    text(x, 122, 'x ≈ 1 · scale + min, off by at most about scale / 2'),
  );
}

/** Groups along channels, and groups along tokens. */
export function grouping() {
  const LEFT_EDGE = 70;
  const cell = (x, y, width, height, style = 'store') =>
    `<rect class="${style}" x="${x}" y="${y}" width="${width}" height="${height}"/>`;
  const panel = (top, name, explanation, cells) => [
    text(0, top + 16, name, BOLD),
    text(96, top + 16, explanation, NOTE),
    text(LEFT_EDGE, top + 42, 'channels', NOTE),
    arrow([LEFT_EDGE + 56, top + 38], [LEFT_EDGE + 110, top + 38]),
    text(LEFT_EDGE - 20, top + 66, 'tokens', { at: 'end', style: 'small muted' }),
    arrow([LEFT_EDGE - 30, top + 76], [LEFT_EDGE - 30, top + 126]),
    cells(top + 52),
  ];
  const perToken = (top) =>
    [0, 1, 2, 3].flatMap((row) =>
      [0, 1].map((column) => [
        cell(LEFT_EDGE + 120 * column, top + 28 * row, 120, 28),
        text(LEFT_EDGE + 60 + 120 * column, top + 18 + 28 * row, `group ${2 * row + column}`, {
          style: 'small',
        }),
      ]),
    );
  const perChannel = (top) =>
    Array.from({ length: 8 }, (_, i) => cell(LEFT_EDGE + 30 * i, top, 30, 112, i === 5 ? 'sum' : 'store'));
  return figure(
    340,
    372,
    'perToken: a group is a run of channels of one token. perChannel: a group is 128 tokens of one channel, so that a channel of outliers is alone',
    panel(0, 'perToken', 'a run of channels of one token', perToken),
    panel(196, 'perChannel', '128 tokens; an outlier channel is alone', perChannel),
  );
}

/** Positions of a sequence: sealed blocks, and the window. */
export function blocks() {
  const part = (x, width, positions, lines, style) => [
    text(x, 16, positions, NOTE),
    box(x, 24, width, 44, lines, { style }),
  ];
  return figure(
    400,
    74,
    'Positions 0 to 127 and 128 to 255 are sealed blocks; 256 to 301 are in the window, in f16',
    part(0, 142, '0 to 127', ['sealed block 0', 'quantized'], 'store'),
    part(148, 142, '128 to 255', ['sealed block 1', 'quantized'], 'store'),
    part(296, 76, '256 to 301', ['window', 'f16'], 'box'),
  );
}

/** The accumulator moving up through the layers. */
export function crossLayer() {
  const ROW = 62;
  const STORED = [262, 128];
  const middle = STORED[0] + STORED[1] / 2;
  const y = (layer) => 28 + ROW * layer;
  const rows = [0, 1, 2, 3, 4].map((layer) => {
    const top = y(layer);
    const isBase = layer < 3;
    const sign = [
      `<circle class="sum" cx="124" cy="${top + 15}" r="11"/>`,
      text(124, top + 19.5, '−'),
      arrow([84, top + 15], [113, top + 15]),
      arrow([135, top + 15], [164, top + 15]),
    ];
    const reads = isBase ? `K, V from X̂${'₀₁₂'[layer]}` : 'K, V from A';
    return [
      text(0, top + 20, `layer ${layer}`, { at: 'start', style: 'small muted' }),
      box(50, top, 34, 30, `X${'₀₁₂₃₄'[layer]}`),
      isBase ? arrow([84, top + 15], [164, top + 15]) : sign,
      box(164, top, 72, 30, isBase ? 'Q, 4 bits' : 'Q, 2 bits'),
      arrow([236, top + 15], [STORED[0], top + 15]),
      box(STORED[0], top, STORED[1], 30, isBase ? 'stored' : `stored;  A += D̂${'₃₄'[layer - 3]}`, {
        style: 'store',
      }),
      text(STORED[0] + STORED[1] + 10, top + 20, reads, LEFT),
    ];
  });
  const toSum = (layer) => [
    arrow([middle, y(layer - 1) + 30], [middle, y(layer)]),
    arrow([middle, y(layer) - 14], [124, y(layer) - 14], [124, y(layer) + 4]),
    text(225, y(layer) - 18, 'A', { style: 'bold' }),
  ];
  return figure(
    490,
    356,
    'Layers 0 to 2 are quantized with 4 bits; the third one starts the accumulator A. Above, the difference of X and A is quantized with 2 bits and added to A, from which keys and values come',
    text(50, 14, 'write', NOTE),
    text(STORED[0] + STORED[1] + 10, 14, 'read', NOTE),
    rows,
    toSum(3),
    toSum(4),
    text(middle + 8, y(2) + 43, 'the base starts it: A := X̂₂', NOTE),
    arrow([middle, y(4) + 30], [middle, y(4) + 56]),
    text(middle + 8, y(4) + 52, 'and so on up', NOTE),
  );
}
