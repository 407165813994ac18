/**
 * Writes docs/models.md: the families from io/families, the weight types from quant/weight-types, sizes of caches from
 * analysis/memory, and the largest differences to transformers, measured on golden/families. Needs a build.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
if (!existsSync(`${root}dist/io/families/index.js`)) {
  process.stderr.write('there is no dist/: run "npm run build" first\n');
  process.exit(2);
}
const { FAMILIES } = await import('../dist/io/families/index.js');
const { loadModelFile } = await import('../dist/io/load-model.js');
const { readSafetensors, toFloat32 } = await import('../dist/io/safetensors.js');
const { ReferenceModel } = await import('../dist/reference-model.js');
const { referenceWeights } = await import('../dist/model/weights.js');
const { WasmModel } = await import('../dist/engine/wasm-model.js');
const { logSumExp } = await import('../dist/sampling.js');
const { cacheSize, float16KeyValueBytes } = await import('../dist/analysis/memory.js');
const { WEIGHT_BLOCKS, WEIGHT_TYPES } = await import('../dist/quant/weight-types.js');

/** Models of golden/families, by family. */
const CASES = {
  llama: ['llama-biases', 'llama-yarn', 'llama-dynamic'],
  mistral: ['mistral'],
  qwen2: ['qwen2'],
  qwen3: ['qwen3'],
  smollm3: ['smollm3'],
  granite: ['granite'],
  minicpm: ['minicpm'],
  olmo2: ['olmo2'],
  exaone4: ['exaone4'],
  phi3: ['phi3', 'phi4-mini'],
  gemma3: ['gemma3'],
  ernie4_5: ['ernie4_5'],
  ministral3: ['ministral3'],
  hunyuan: ['hunyuan'],
};

/** Sizes of published models, from their config.json: hidden size, layers, heads, KV heads, channels of a head. */
const PUBLISHED = {
  'SmolLM2-135M': [576, 30, 9, 3, 64],
  'Llama 3.2 1B': [2048, 16, 32, 8, 64],
  'Mistral 7B v0.1': [4096, 32, 32, 8, 128, { window: 4096, every: 1 }],
  'Qwen 2.5 0.5B': [896, 24, 14, 2, 64],
  'Qwen 3 0.6B': [1024, 28, 16, 8, 128],
  'SmolLM3 3B': [2048, 36, 16, 4, 128],
  'Granite 3.3 2B': [2048, 40, 32, 8, 64],
  'MiniCPM 2B': [2304, 40, 36, 36, 64],
  'OLMo 2 1B': [2048, 16, 16, 16, 128],
  'EXAONE 4 1.2B': [2048, 30, 32, 8, 64],
  'Phi-3-mini 4k': [3072, 32, 32, 32, 96, { window: 2047, every: 1 }],
  'Phi-4-mini': [3072, 32, 24, 8, 128],
  'Gemma 3 270M': [640, 18, 4, 1, 256, { window: 512, every: 6 }],
  'Gemma 3 1B': [1152, 26, 4, 1, 256, { window: 512, every: 6 }],
  'ERNIE 4.5 0.3B': [1024, 18, 16, 2, 128],
  'Hunyuan 0.5B': [1024, 24, 8, 4, 128],
};

const CONTEXT = 8192;

async function largestDifference(name, backend) {
  const folder = `${root}golden/families/${name}`;
  const path = `${folder}/expected.safetensors`;
  const { tensors } = readSafetensors(readFileSync(path), path);
  const tokens = Array.from(toFloat32(tensors.get('tokens')));
  const expected = toFloat32(tensors.get('logprobs'));
  let largest = 0;
  for (const file of ['', '/model.gguf']) {
    if (!existsSync(folder + file)) continue;
    const { config, weights } = await loadModelFile(folder + file);
    const model =
      backend === 'reference'
        ? new ReferenceModel(config, referenceWeights(weights))
        : await WasmModel.load(config, weights, { threads: 1 });
    const logits = await model.forward(tokens, model.createCache('kv?quantizer=identity'), { logits: 'all' });
    for (let r = 0; r < logits.rows; r++) {
      const values = logits.data.subarray(r * logits.columns, (r + 1) * logits.columns);
      const normalizer = logSumExp(values);
      const next = tokens[r + 1] ?? 3;
      for (let j = 0; j < 8; j++) {
        const value = values[(next + 4 * j) % values.length] - normalizer;
        largest = Math.max(largest, Math.abs(value - expected[r * 8 + j]));
      }
    }
    await model.dispose();
  }
  return largest;
}

const table = (rows) => {
  const [head, ...body] = rows.map((cells) => `| ${cells.join(' | ')} |`);
  return [head, `| ${rows[0].map(() => '---').join(' | ')} |`, ...body].join('\n');
};
const percent = (fraction) => `${(100 * fraction).toFixed(0)} %`;

const families = [['family', 'models', '`model_type`', 'GGUF', 'X of the paper', 'differs from Llama in']];
const differences = [['model of `golden/families`', 'reference', 'engine']];
for (const family of FAMILIES) {
  const names = CASES[family.name];
  if (!names) throw new Error(`golden/families has no model of ${family.name}`);
  const { config } = await loadModelFile(`${root}golden/families/${names.at(-1)}`);
  const x = config.norms === 'after' ? 'the stream' : 'the stream after the input norm';
  const flags = new Set();
  for (const name of names) {
    const { config } = await loadModelFile(`${root}golden/families/${name}`);
    for (const each of differencesOf(config, family)) flags.add(each);
    const [reference, engine] = [
      await largestDifference(name, 'reference'),
      await largestDifference(name, 'wasm'),
    ];
    differences.push([name, reference.toExponential(1), engine.toExponential(1)]);
  }
  const code = (list) =>
    list.map((each) => `\`${each}\``).join(', ') || (family.name === 'mistral' ? 'as `llama`' : 'no');
  const { modelTypes, ggufArchitectures } = family;
  families.push([
    family.name,
    family.models,
    code(modelTypes),
    code(ggufArchitectures),
    x,
    [...flags].join(', ') || 'nothing',
  ]);
}

function differencesOf(config, family) {
  const layers = config.layers ?? [];
  return [
    config.qkvBias && 'biases of Q, K, V',
    config.outputBias && 'bias of the output projection',
    config.mlpBias && 'biases of the MLP',
    config.qkNorm === 'head' && 'norm of each head of Q and K',
    config.qkNorm === 'width' && 'norm of all of Q and of K',
    config.qkNorm === 'headAfterRope' && 'norm of each head of Q and K after RoPE',
    config.norms === 'after' && 'norms after attention and MLP instead of before',
    config.norms === 'both' && 'norms after attention and MLP, too',
    config.activation === 'gelu_tanh' && 'GELU',
    (config.embeddingScale || config.residualScale || config.logitScale) && 'scale factors',
    family.fused && 'fused projections',
    config.rotaryDim && 'RoPE of part of a head',
    config.ropeMagnitude && 'YaRN or LongRoPE',
    config.ropeLayout === 'interleaved' && 'RoPE of neighbours',
    layers.some(({ rope }) => rope === 'none') && 'layers without RoPE',
    layers.some(({ slidingWindow }) => slidingWindow) && 'sliding windows',
  ].filter(Boolean);
}

const sizes = [
  ['model', 'heads', 'f16 KV', 'windowed f16', '`kivi:2`', '`xquant:2`', '`xquant-cl:2@tuned`', 'form'],
];
for (const [name, [hiddenSize, numHiddenLayers, heads, kvHeads, headDim, windows]] of Object.entries(
  PUBLISHED,
)) {
  const shape = { hiddenSize, numHiddenLayers, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim };
  const model = { ...shape, maxPositionEmbeddings: CONTEXT };
  const full = float16KeyValueBytes(model, CONTEXT);
  const fraction = (cache) => percent(cacheSize(cache, model, CONTEXT).fraction);
  const global = windows
    ? windows.every === 1
      ? 0
      : Math.floor(numHiddenLayers / windows.every)
    : numHiddenLayers;
  const windowed = windows
    ? percent((global + (numHiddenLayers - global) * Math.min(1, windows.window / CONTEXT)) / numHiddenLayers)
    : '';
  const form = hiddenSize <= 2 * kvHeads * headDim ? 'X' : 'latents';
  sizes.push([
    name,
    heads === kvHeads ? `${heads}, MHA` : `${heads} on ${kvHeads}, GQA`,
    `${(full / 2 ** 20).toFixed(0)} MiB`,
    windowed,
    fraction('kivi:2'),
    fraction('xquant:2'),
    fraction('xquant-cl:2@tuned'),
    form,
  ]);
}

const types = [['type', 'bits a weight', 'in the engine']];
for (const type of WEIGHT_TYPES) {
  const { elements, bytes, product } = WEIGHT_BLOCKS[type];
  const bits = Number(((8 * bytes) / elements).toFixed(4));
  types.push([type, String(bits), product === type ? 'as it is' : `as ${product}, the same weights exactly`]);
}

const real = [['file', 'types', 'tokens', 'engine', 'transformers', 'perplexity, relative']];
for (const row of JSON.parse(readFileSync(`${root}golden/families/real-files.json`, 'utf8'))) {
  const { model, types, tokens, engine, transformers } = row;
  const relative = Math.abs(Math.exp(engine - transformers) - 1).toExponential(1);
  real.push([model, types.join(', '), String(tokens), engine.toFixed(5), transformers.toFixed(5), relative]);
}

const page = `# Models that run

\`node scripts/write-models.mjs\` writes this page from the code and from what it measures.

## Families

${table(families)}

Everything else is refused by name, for instance mixtures of experts, Gemma 3n and 4, LFM2, Qwen 3.5, Falcon-H1. A file of a
family with a tensor or an option that it does not know is refused, too.

What the caches store follows from X. With an input norm, X is what the norm gives, and \`xquant-cl\` may take differences of it
with its gain, before its gain, or of the stream (\`deltaSpace\`). Without one, X is the stream, and the three are the same.
All caches suit all families: keys are stored before RoPE and rematerialized with the biases, norms and rotation of their
layer. \`xquant\` gains most where all heads have keys of their own (MHA), since X is half as wide as K and V together; with
shared heads (GQA) it stores the latents of XQuant §3.3.

- **Sliding windows** are masks: attention skips blocks behind the window, and the cache keeps them.
- **YaRN, linear, llama3**: as transformers. **Dynamic** scaling changes nothing within \`max_position_embeddings\`, where the context
  ends. **LongRoPE** has other factors beyond the original context, for the tokens before as well: transformers runs the whole
  sequence again at this point, since rotated keys and deeper layer inputs are those of the short factors. A cache that
  rematerializes keys could rotate them anew, but not the layer inputs that it stores. So the context ends there, and a longer
  sequence is refused with this reason; so it is for Ministral 3, whose queries grow with the position.
- **RoPE of part of a head**: channels of Q and K are put into another order at load, which no score sees.

## Beside transformers

Largest difference of a log-probability over 300 tokens, of small random models (\`golden/generate/families_hf.py\`), from the
Hugging Face folder and from GGUF. Tests require less than 2e-4, also token by token after a prefill.

${table(differences)}

Files of real models: nats a token over the first tokens of WikiText-2's raw test text, by the engine and by transformers over
the dequantized weights (\`scripts/gguf-perplexity.mjs\`, \`golden/generate/perplexity_hf.py\`). The files of SmolLM2 are made by
\`golden/generate/requantize.py\` from its Q4_1 file, in the types that llama-quantize takes; Gemma's is as published, and its window
of 512 tokens is passed.

${table(real)}

## Sizes

At ${CONTEXT.toLocaleString('en')} tokens, beside keys and values in f16. "Windowed f16" is what f16 would take if layers with windows dropped what lies
behind them.

${table(sizes)}

## Weight types

GGUF types, and F32, F16 and BF16 of safetensors files. Others are refused by their names.

${table(types)}
`;
writeFileSync(`${root}docs/models.md`, page);
