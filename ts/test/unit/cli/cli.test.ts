import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BACKENDS } from '../../../src/backends.js';
import { Interruption } from '../../../src/cli/errors.js';
import { generate } from '../../../src/generate.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { readSafetensors } from '../../../src/io/safetensors.js';
import { loadModel } from '../../../src/load.js';
import { measurePerplexity } from '../../../src/perplexity.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { runInProcess } from '../../helpers/run-cli.js';

const CHAT_TEMPLATE =
  '{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}';
const TEXT = 'The thin man and the other thin man ran in the rain, in and out of the inn. '.repeat(10);

let folder = '';
let model = '';
let chatModel = '';
let otherModel = '';
let text = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'xquant-cli-'));
  const put = (name: string, content: string | Uint8Array) => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  // Weights this large make a model with opinions, so that caches and seeds can differ.
  model = put('tiny.gguf', tinyModelGguf({ scale: 0.3 }));
  otherModel = put('other.gguf', tinyModelGguf({ scale: 0.3, seed: 2 }));
  chatModel = put(
    'chat.gguf',
    tinyModelGguf({
      scale: 0.3,
      edit: ({ metadata }) => Object.assign(metadata, { 'tokenizer.chat_template': CHAT_TEMPLATE }),
    }),
  );
  text = put('text.txt', TEXT);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a command that must work, and parses the lines of its stdout. */
// biome-ignore lint/suspicious/noExplicitAny: results of many commands; what a test reads of them it expects
async function json(args: string[], stdin = ''): Promise<Record<string, any>[]> {
  const { code, stdout, stderr } = await runInProcess([...args, '--json'], { stdin });
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

describe('generate', () => {
  const args = (...more: string[]) => ['generate', 'in the', '-m', model, '-n', '12', ...more];

  it.each(BACKENDS)('prints what the library generates, and nothing else (%s)', async (backend) => {
    const { model: own, tokenizer } = await loadModel(model, { backend });
    const options = { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05, seed: 7 };
    for (const cache of ['kv', 'xquant-cl:2@tuned']) {
      const { text: expected } = await generate(own, tokenizer, 'in the', {
        ...options,
        cache,
        maxTokens: 12,
      }).finish();
      const run = await runInProcess(args('--seed', '7', '--cache', cache, '--backend', backend));
      expect(run).toEqual({ code: 0, stdout: expected.replace(/\n?$/, '\n'), stderr: '' });
    }
    await own.dispose();
  });

  it('reads the prompt from stdin, without the line break at its end', async () => {
    const [direct] = await json(args());
    const [fromPipe] = await json(['generate', '-m', model, '-n', '12'], 'in the\n');
    const [fromDash] = await json(['generate', '-', '-m', model, '-n', '12'], 'in the');
    for (const each of [fromPipe, fromDash])
      expect(each).toMatchObject({ prompt: 'in the', ids: direct.ids });
  });

  it('--json tells all in one object', async () => {
    const lines = await json(args('--logprobs', '2', '--cache', 'xquant:4', '--seed', '3'));
    expect(lines).toHaveLength(1);
    const [result] = lines;
    expect(result).toMatchObject({ cache: 'xquant:4', backend: 'wasm', seed: 3, generatedTokens: 12 });
    expect(result.stopReason).toBe('maxTokens');
    expect(result.cachedTokens).toBe(result.promptTokens + 11);
    expect(result.tokens.map((token: { text: string }) => token.text).join('')).toBe(result.text);
    for (const token of result.tokens) {
      expect(token.topLogprobs).toHaveLength(2);
      expect(token.logprob).toBeLessThanOrEqual(token.topLogprobs[0].logprob);
    }
  });

  it('--speculate changes how the text comes, not the text', async () => {
    const more = [
      '-n',
      '40',
      '--logit-bias',
      '65=90',
      '--logit-bias',
      '66=90',
      '--seed',
      '2',
      '--logprobs',
      '1',
    ];
    const [off] = await json(args(...more, '--speculate', 'off'));
    expect(off.speculation).toEqual({ passes: 0, verified: 0, drafted: 0, accepted: 0 });
    for (const how of ['auto', 'ngram', 'ngram:3', 'window:5']) {
      const [{ tokens, speculation, cacheBytes }] = await json(args(...more, '--speculate', how));
      expect({ tokens, cacheBytes }).toEqual({ tokens: off.tokens, cacheBytes: off.cacheBytes });
      if (how === 'auto') continue;
      expect(speculation.accepted).toBeGreaterThan(0);
      expect(speculation.verified).toBe(speculation.drafted + speculation.passes);
    }
    for (const wrong of ['on', 'ngram:16', 'ngram:0', 'ngram:x', 'ngram:3:4', 'model']) {
      const run = await runInProcess(args('--speculate', wrong));
      expect(run).toMatchObject({ code: 2, stdout: '' });
      expect(run.stderr).toContain('speculate');
    }
    const both = await runInProcess(args('--samples', '2', '--speculate', 'ngram'));
    expect(both).toMatchObject({ code: 2, stdout: '' });
  });

  it('--samples continues the prompt with several seeds, each as if alone', async () => {
    const several = await json(args('--samples', '3', '--seed', '5', '--logprobs', '1'));
    expect(several.map(({ sample, seed }) => [sample, seed])).toEqual([
      [0, 5],
      [1, 6],
      [2, 7],
    ]);
    for (const { seed, ids, text, tokens } of several) {
      const [single] = await json(args('--seed', String(seed)));
      expect({ ids, text }).toEqual({ ids: single.ids, text: single.text });
      expect(tokens).toHaveLength(12);
    }
    const { stdout } = await runInProcess(args('--samples', '3', '--seed', '5'));
    const shown = several.map(({ text, seed }, i) => `--- ${i + 1} of 3, seed ${seed}\n${text}`);
    expect(stdout).toBe(shown.map((text) => text.replace(/\n?$/, '\n')).join(''));
    const kept = await runInProcess(args('--samples', '2', '--snapshot', join(folder, 'several.xqs')));
    expect(kept).toMatchObject({ code: 2, stdout: '' });
  });

  it('runs on the engine unless told otherwise, with the threads and kernels asked for', async () => {
    const [engine] = await json(args('--threads', '2', '--kernel', 'simd', '--key-weights', 'int8'));
    expect(engine).toMatchObject({
      backend: 'wasm',
      kernel: 'simd-threads',
      threads: 2,
      keyWeights: 'int8',
    });
    const [reference] = await json(args('--backend', 'reference'));
    expect(reference).toMatchObject({ backend: 'reference' });
    expect(reference.kernel).toBeUndefined();
  });

  it('refuses options of the engine that make no sense, and memory that is too small', async () => {
    for (const [options, code, message] of [
      [['--threads', '0'], 2, /positive integer/],
      [['--threads', '65'], 2, /"threads" must be an integer from 1 to 64/],
      [['--kernel', 'avx'], 2, /auto/],
      [['--memory-limit', '12 apples'], 2, /size like/],
      [['--backend', 'reference', '--threads', '2'], 2, /"threads" must be absent/],
      [['--memory-limit', '256K'], 1, /do not fit in the limit of 262144 bytes/],
    ] as const) {
      const run = await runInProcess(args(...options));
      expect(run).toMatchObject({ code, stdout: '' });
      expect(run.stderr).toMatch(message);
    }
  });

  it('--stop, --ignore-eos, --logit-bias, --temperature and --echo do what they say', async () => {
    const [free] = await json(args('--temperature', '0'));
    const word = free.text.slice(3, 6);
    const [stopped] = await json(args('--temperature', '0', '--stop', word));
    expect(stopped.text).toBe(free.text.slice(0, free.text.indexOf(word)));
    const [first] = free.ids;
    const [banned] = await json(args('--temperature', '0', '--logit-bias', `${first}=-inf`));
    expect(banned.ids).not.toContain(first);
    const { stdout } = await runInProcess(args('--temperature', '0', '--echo'));
    expect(stdout.startsWith(`in the${free.text}`)).toBe(true);
  });

  it('--output writes the file when all is done, and nothing else into its folder', async () => {
    const file = join(folder, 'generated.txt');
    const before = readdirSync(folder);
    const { stdout: expected } = await runInProcess(args());
    const { code, stdout } = await runInProcess(args('-o', file));
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(readFileSync(file, 'utf8')).toBe(expected);
    expect(readdirSync(folder).sort()).toEqual([...before, 'generated.txt'].sort());
  });

  it('says on stderr what it did, on a terminal or with --verbose', async () => {
    for (const run of [runInProcess(args(), { isTTY: true }), runInProcess(args('--verbose'))]) {
      const { stdout, stderr } = await run;
      expect(stderr).toMatch(/prompt \d+ tokens .* generated 12 .* ended: maxTokens/);
      expect(stdout).not.toContain('ended:');
    }
  });

  it('Ctrl-C ends it with 130, the text so far, and no file', async () => {
    const controller = new AbortController();
    const file = join(folder, 'interrupted.txt');
    let pieces = 0;
    const run = await runInProcess(['generate', 'in', '-m', model, '--ignore-eos'], {
      signal: controller.signal,
      onStdout: () => ++pieces === 3 && controller.abort(new Interruption(130)),
    });
    expect(run.code).toBe(130);
    expect(run.stderr).toBe('');
    expect(run.stdout).not.toBe('');
    const early = AbortSignal.abort(new Interruption(130));
    expect((await runInProcess(args('-o', file), { signal: early })).code).toBe(130);
    expect(existsSync(file)).toBe(false);
  });
});

describe('perplexity', () => {
  const args = () => ['perplexity', '-m', model, '--text', text, '--window-size', '100', '--windows', '2'];

  it.each(BACKENDS)('prints one object for each cache, as the library measures it (%s)', async (backend) => {
    const caches = ['kv', 'xquant:4?window=16', 'xquant-cl:2@paper?window=16&form=x'];
    const results = await json([...args(), '--cache', caches.join(','), '--backend', backend]);
    const { model: own, tokenizer } = await loadModel(model, { backend });
    const report = await measurePerplexity(own, tokenizer.encode(TEXT), {
      caches,
      windowSize: 100,
      windows: 2,
    });
    expect(results.map((result) => result.cache)).toEqual(caches);
    for (const [i, result] of results.entries()) {
      const { seconds: _seconds, ...expected } = report.caches[i];
      expect(result).toMatchObject(JSON.parse(JSON.stringify(expected)));
      expect(result.seconds).toBeGreaterThan(0);
      expect(result).toMatchObject({
        backend,
        windows: 2,
        tokens: 198,
        baseline: report.baseline.perplexity,
      });
      // Parts add up, and nothing is smaller in all than alone.
      const { cache, accumulator, plan, total, smaller, cacheSmaller } = result.memory;
      expect(cache + accumulator + plan).toBe(total);
      expect(smaller).toBeLessThanOrEqual(cacheSmaller);
      expect(cacheSmaller).toBeCloseTo(result.compression, 9);
    }
    await own.dispose();
  });

  it('prints a table for people', async () => {
    const { code, stdout } = await runInProcess([...args(), '--cache', 'kv,xquant:4']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/2 windows of 100 tokens, teacherForced/);
    expect(stdout).toMatch(/^kv +\S+ +\+0\.00000/m);
    expect(stdout).toMatch(/^xquant:4 /m);
    expect(stdout).toMatch(/cache alone +in all +time/);
  });

  it('--mode decode keeps the newest block in f16', async () => {
    const [decoded] = await json([...args(), '--mode', 'decode', '--cache', 'xquant:2']);
    // 100 tokens are less than a block of 128: nothing was ever quantized.
    expect(decoded).toMatchObject({ mode: 'decode', bitsPerElement: 16 });
    expect(Math.abs(decoded.loss)).toBeLessThan(0.01);
  });

  it('reads the text from stdin', async () => {
    const [piped] = await json(['perplexity', '-m', model, '--text', '-', '--window-size', '64'], TEXT);
    expect(piped.windows).toBeGreaterThan(2);
  });
});

describe('memory', () => {
  it('prints the size table of a shape, exact and as the paper rounds', async () => {
    for (const given of ['--shape', '--model']) {
      const rows = await json(['memory', given, 'llama-2-7b', '--context', '2048']);
      const row = (cache: string) => rows.find((each) => each.cache === cache);
      expect(row('xquant:4@paper')).toMatchObject({
        model: 'llama-2-7b',
        context: 2048,
        fraction: 4.25 / 32,
        paperFraction: 0.13,
        paperCompression: 7.7,
      });
      expect(row('kv')).toMatchObject({ compression: 1, bytesPerToken: 2 * 2 * 4096 * 32 });
    }
  });

  it('prints it for a model file and the caches asked for', async () => {
    const rows = await json(['memory', '-m', model, '--cache', 'kv,xquant:2', '--context', '128']);
    expect(rows.map((row) => row.cache)).toEqual(['kv', 'xquant:2']);
    expect(rows[0].bytesPerToken).toBe(2 * 2 * 32 * 2);
    const { stdout } = await runInProcess(['memory', '-m', model]);
    expect(stdout).toMatch(/tiny llama, 256 tokens/);
  });

  it('adds everything up, says where it is larger and why, and books kv as what it is', async () => {
    const args = ['memory', '--shape', 'smollm2-135m', '--context', '100', '--cache', 'kv,auto'];
    const [kv, xquant] = await json(args);
    expect(kv.bytes).toMatchObject({ keysAndValues: 2 * 2 * 192 * 30 * 100, window: 0, outliers: 0 });
    expect(kv.memory).toMatchObject({ smaller: 1, plan: 0 });
    expect(xquant.cache).toBe('xquant:4@tuned');
    const { cache, accumulator, plan, total, smaller, float16 } = xquant.memory;
    expect(cache + accumulator + plan).toBe(total);
    expect(smaller).toBeCloseTo(float16 / total, 12);
    expect(smaller).toBeLessThan(1);
    const { stdout } = await runInProcess(args);
    expect(stdout).toMatch(/^xquant:4@tuned .* larger /m);
    const why = new RegExp(
      `^xquant:4@tuned: larger, since .*; it pays from ${xquant.breakEven} tokens on$`,
      'm',
    );
    expect(stdout).toMatch(why);
  });
});

describe('info', () => {
  it('tells sizes, tensor types, tokenizer and caches', async () => {
    const [info] = await json(['info', '-m', model, '--tensors']);
    expect(info).toMatchObject({
      name: 'tiny llama',
      format: 'gguf',
      kvBytesPerToken: 2 * 2 * 32 * 2,
      tokenizer: { vocabSize: 288, eosTokenIds: [0] },
      hasChatTemplate: false,
    });
    expect(info.config).toMatchObject({ architecture: 'llama', hiddenSize: 64, kvDim: 32, groupedHeads: 2 });
    expect(info.tensors.map((tensor: { name: string }) => tensor.name)).toContain('blk.1.attn_k.weight');
    expect(
      info.caches.find((each: { cache: string }) => each.cache === 'xquant:4?form=latent').isDefault,
    ).toBe(true);
    expect(
      info.choices.map((each: { cache: string; isDefault: boolean }) => each.isDefault && each.cache),
    ).toContain('xquant:4@tuned');
    const { stdout } = await runInProcess(['info', '-m', model, '--tensors']);
    expect(stdout).toMatch(/^xquant:4@tuned .* not measured +default$/m);
    expect(stdout).toMatch(/GQA, 2 share one/);
    expect(stdout).toMatch(/^blk\.0\.attn_q\.weight +F32 +\[64, 64\]/m);
  });
});

describe('the choice by the model', () => {
  it('is used unless another cache is asked for, and named in reports', async () => {
    const [implied] = await json(['generate', 'in', '-m', model, '-n', '4']);
    expect(implied.cache).toBe('xquant:4@tuned');
    expect(implied.memory.total).toBeGreaterThan(implied.memory.cache);
  });

  it('says what it chose and why, in a line, to who asks for it', async () => {
    const { stderr, code } = await runInProcess([
      'generate',
      'in',
      '-m',
      model,
      '-n',
      '4',
      '--cache',
      'auto',
    ]);
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /^cache xquant:4@tuned: grouped-query attention \(4 query heads, 2 KV heads\), .*\n$/,
    );
  });

  it('measures the speed of each cache on request', async () => {
    const [info] = await json(['info', '-m', model, '--measure', '--threads', '1']);
    for (const { tokensPerSecond } of info.choices) expect(tokensPerSecond).toBeGreaterThan(0);
  });
});

describe('svd', () => {
  it('writes factors that generate and perplexity take, and that change nothing', async () => {
    const file = join(folder, 'factors.safetensors');
    const [written] = await json(['svd', '-m', model, '-o', file]);
    expect(written).toMatchObject({ file, bytes: readFileSync(file).length });
    const { metadata, tensors } = readSafetensors(readFileSync(file), file);
    expect(metadata.model).toBe((await loadModelFile(model)).fingerprint);
    expect(tensors.size).toBe(2 * written.matrices.length);

    const run = ['generate', 'in the', '-m', model, '-n', '8', '--cache', 'xquant:2?window=2&group=2'];
    const [computed] = await json(run);
    const [loaded] = await json([...run, '--svd', file]);
    expect(loaded.ids).toEqual(computed.ids);
  });

  it('can be limited to what a cache needs', async () => {
    const file = join(folder, 'some.safetensors');
    const [written] = await json(['svd', '-m', model, '-o', file, '--cache', 'xquant:4']);
    expect(written.matrices).toEqual(
      [0, 1].flatMap((layer) => [
        { layer, matrix: 'key' },
        { layer, matrix: 'value' },
      ]),
    );
  });

  it('factors of another model are refused', async () => {
    const file = join(folder, 'other.safetensors');
    await json(['svd', '-m', otherModel, '-o', file]);
    const { code, stdout, stderr } = await runInProcess(['generate', 'in', '-m', model, '--svd', file]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^xquant: .*other\.safetensors: .*belong to model/);
  });
});

describe('chat', () => {
  const args = () => ['chat', '-m', chatModel, '-n', '6', '--cache', 'xquant:4'];

  it('keeps the conversation, and the cache with it', async () => {
    const file = join(folder, 'kept.xqs');
    const [first] = await json(args(), `hi\n/save ${file}\n`);
    expect(first).toMatchObject({ reusedTokens: 0, cache: 'xquant:4' });
    const [second] = await json(args(), `/load ${file}\nand you\n`);
    expect(second.reusedTokens).toBeGreaterThanOrEqual(first.promptTokens);
    expect(second.promptTokens).toBeGreaterThan(first.promptTokens + first.generatedTokens);
  });

  it('takes all of a pipe as one message', async () => {
    const [answer, ...others] = await json(args(), 'hi\nand you\n\nin the inn\n');
    expect(others).toEqual([]);
    const [shorter] = await json(args(), 'hi\nand you\n');
    expect(answer.promptTokens).toBeGreaterThan(shorter.promptTokens);
  });

  it('/reset forgets it, /quit and /exit leave it', async () => {
    for (const leave of ['/quit', '/exit']) {
      const answers = await json(args(), `hi\n/reset\nhi\n${leave}\nhi\n`);
      expect(answers).toHaveLength(2);
      expect(answers[1].promptTokens).toBe(answers[0].promptTokens);
    }
  });

  it('--system comes first, and /system changes it', async () => {
    const [plain] = await json(args(), 'hi\n');
    const [withSystem] = await json([...args(), '--system', 'be in'], 'hi\n');
    expect(withSystem.promptTokens).toBeGreaterThan(plain.promptTokens);
    const [changed] = await json(args(), '/system be in\nhi\n');
    expect(changed.ids).toEqual(withSystem.ids);
  });

  it('--file comes before the first message, or is it', async () => {
    const file = join(folder, 'page.txt');
    writeFileSync(file, 'in the inn\nin the rain\n');
    const [both] = await json([...args(), '-f', file], 'who');
    const [typed] = await json(args(), 'in the inn\nin the rain\n\nwho');
    expect(both.ids).toEqual(typed.ids);
    const [alone] = await json([...args(), '-f', file], '');
    expect(alone.ids).toEqual((await json(args(), 'in the inn\nin the rain'))[0].ids);
    const missing = await runInProcess([...args(), '-f', join(folder, 'none.txt')], { stdin: 'hi' });
    expect(missing.code).toBe(1);
    expect(missing.stderr).toMatch(/^xquant: .*none\.txt: cannot be read: .*\n$/);
  });

  it('/cache goes on with another cache', async () => {
    const [, second] = await json(args(), 'hi\n/cache kv\nand you');
    expect(second).toMatchObject({ reusedTokens: 0, cache: 'kv' });
    const bad = await runInProcess(args(), { stdin: '/cache xquant:5\nhi' });
    expect(bad).toMatchObject({ code: 2, stdout: '' });
    expect(bad.stderr).toMatch(/"bits" must be/);
  });

  it('drops the oldest turns of a full context, and says so', async () => {
    const { code, stdout, stderr } = await runInProcess([...args(), '--json'], {
      stdin: [1, 2, 3, 4].map((i) => `${i} ${'x'.repeat(80)}`).join('\n/stats\n'),
    });
    expect(code).toBe(0);
    expect(stderr).toMatch(/the context is full: the oldest \d messages are forgotten/);
    const answers = stdout.split('\n').filter((line) => line.startsWith('{'));
    expect(answers.map((line) => JSON.parse(line).droppedMessages).some((count) => count > 0)).toBe(true);
  });

  it('ends in a pipe at a message that does not fit, or a command that there is not', async () => {
    const long = await runInProcess([...args(), '--json'], { stdin: `${'x'.repeat(400)}\n` });
    expect(long).toMatchObject({ code: 2, stdout: '' });
    expect(long.stderr).toMatch(/^xquant: "prompt" must be at most 256 tokens/);
    const slip = await runInProcess(args(), { stdin: 'hi\n/nonsense\nhi' });
    expect(slip.code).toBe(2);
    expect(slip.stderr).toMatch(/no command \/nonsense; \/help lists them\n$/);
    const argument = await runInProcess(args(), { stdin: '/reset everything\n' });
    expect(argument.stderr).toMatch(/\/reset takes no argument/);
  });

  it('answers in plain text without --json, with what it did on stderr', async () => {
    const { code, stdout, stderr } = await runInProcess(args(), { stdin: 'hi\n/help\n/stats\n' });
    expect(code).toBe(0);
    expect(stdout).toMatch(/\/reset +forget the conversation/);
    expect(stdout).toMatch(/^context {2}\d+ of 256 tokens, 2 messages$/m);
    expect(stderr).toMatch(/^.*, cache xquant:4, context 256 tokens\n\(read \d+ of \d+ tokens .*\)\n$/);
    expect((await runInProcess([...args(), '--quiet'], { stdin: 'hi\n' })).stderr).toBe('');
  });

  it('needs a template: that of the model, or a file', async () => {
    const { code, stderr } = await runInProcess(['chat', '-m', model], { stdin: 'hi\n' });
    expect(code).toBe(2);
    expect(stderr).toMatch(/no chat template/);
    const file = join(folder, 'template.jinja');
    writeFileSync(file, CHAT_TEMPLATE);
    const [answer] = await json(['chat', '-m', model, '--chat-template', file, '-n', '3'], 'hi\n');
    expect(answer.generatedTokens).toBe(3);
  });
});

describe('bad usage: exit code 2, one line that says what is wrong, nothing written', () => {
  const run = ['generate', 'in', '-o', 'OUT', '-m', 'MODEL'];
  const measure = ['perplexity', '-m', 'MODEL', '--text', 'TEXT', '-o', 'OUT'];
  it.each<[string, string[], RegExp]>([
    ['an unknown command', ['gnerate'], /unknown command 'gnerate'.*generate/],
    ['an unknown option', [...run, '--tmperature', '1'], /unknown option '--tmperature'.*--temperature/],
    ['a missing value', [...run, '--seed'], /--seed.*argument missing/],
    ['too many arguments', ['generate', 'a', 'b'], /too many arguments/],
    ['5 bits', [...run, '--cache', 'xquant:5'], /"bits" must be .*got/],
    [
      'group size 0',
      [...run, '--cache', 'xquant:4?group=0'],
      /"group" must be an integer from 1 to \d+, got "0"/,
    ],
    ['an unknown cache', [...run, '--cache', 'zip:4'], /one of kv, kivi, .*xquant, xquant-cl .*got "zip:4"/],
    ['an unknown cache option', [...run, '--cache', 'xquant:4?gruop=64'], /got "gruop"/],
    ['an unknown preset', [...run, '--cache', 'xquant:4@best'], /tuned or paper or calibrated/],
    [
      'a cache that the model cannot have',
      [...run, '--cache', 'xquant-cl:2?deltaSpace=stream'],
      /deltaSpace/,
    ],
    ['a bad cache among good ones', [...measure, '--cache', 'kv,kivi:9'], /"bits"/],
    ['a cache twice', [...measure, '--cache', 'kv,kv'], /twice/],
    ['an unknown backend', [...run, '--backend', 'cuda'], /reference/],
    ['a seed that is no number', [...run, '--seed', 'x'], /integer from 0/],
    ['a negative seed', [...run, '--seed=-1'], /integer from 0/],
    ['a temperature below 0', [...run, '--temperature=-1'], /"temperature"/],
    ['a temperature that is no number', [...run, '--temperature', 'hot'], /must be a number/],
    ['a top-p of 2', [...run, '--top-p', '2'], /"topP"/],
    ['an empty stop string', [...run, '--stop', ''], /--stop.*must not be empty/],
    ['a bad logit bias', [...run, '--logit-bias', '5'], /ID=NUMBER/],
    ['log probabilities in plain text', [...run, '--logprobs', '2'], /--json/],
    ['an empty prompt', ['generate', '', '-m', 'MODEL', '-o', 'OUT'], /prompt is empty/],
    ['no prompt on a terminal', ['generate', '-m', 'MODEL', '-o', 'OUT'], /there is no prompt/],
    [
      'a prompt that is too long',
      ['generate', 'x'.repeat(257), '-m', 'MODEL', '-o', 'OUT'],
      /at most 256 tokens/,
    ],
    ['no windows', [...measure, '--windows', '0'], /--windows.*must be a positive integer/],
    ['half a window', [...measure, '--windows', '1.5'], /--windows.*must be a positive integer/],
    [
      'more windows than there are',
      [...measure, '--windows', '99'],
      /at least 25344 tokens: 99 windows of 256/,
    ],
    ['a window above the context', [...measure, '--window-size', '257'], /"windowSize".*256, the context/],
    ['an unknown mode', [...measure, '--mode', 'fast'], /teacher-forced, decode/],
    ['a text that is missing', ['perplexity', '-m', 'MODEL'], /--text/],
    ['an unknown shape', ['memory', '--shape', 'gpt-5', '-o', 'OUT'], /llama-2-7b/],
    ['a context of 0', ['memory', '--context', '0', '-o', 'OUT'], /positive integer/],
    ['no file to write factors to', ['svd', '-m', 'MODEL'], /--output/],
    [
      'a cache that needs no factors',
      ['svd', '-m', 'MODEL', '-o', 'OUT', '--cache', 'kv'],
      /needs no factors/,
    ],
    ['a model that is no source', [...run.slice(0, 4), '-m', 'hf:'], /hf:owner\/repo/],
  ])('%s', async (_, args, message) => {
    const out = join(folder, 'never.txt');
    const filled = args.map((arg) => ({ OUT: out, MODEL: model, TEXT: text })[arg] ?? arg);
    const before = readdirSync(folder).sort();
    const { code, stdout, stderr } = await runInProcess(filled);
    expect(stderr).toMatch(/^xquant: [^\n]+\n$/);
    expect(stderr).toMatch(message);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(readdirSync(folder).sort()).toEqual(before);
  });
});

describe('failures: exit code 1, one line, nothing written', () => {
  it.each<[string, string[], RegExp]>([
    [
      'a model that is not there',
      ['generate', 'in', '-m', 'nowhere.gguf', '-o', 'OUT'],
      /nowhere\.gguf: .*no such file/,
    ],
    ['a model that is cut', ['generate', 'in', '-m', 'CUT', '-o', 'OUT'], /cut\.gguf/],
    ['a model that is none', ['info', '-m', 'TEXT', '-o', 'OUT'], /text\.txt/],
    [
      'a text that is not there',
      ['perplexity', '-m', 'MODEL', '--text', 'nowhere.txt', '-o', 'OUT'],
      /nowhere\.txt/,
    ],
    [
      'a text that is a folder',
      ['perplexity', '-m', 'MODEL', '--text', 'FOLDER', '-o', 'OUT'],
      /it is a folder/,
    ],
    ['a text that is not UTF-8', ['perplexity', '-m', 'MODEL', '--text', 'LATIN', '-o', 'OUT'], /not UTF-8/],
    [
      'factors that are not there',
      ['generate', 'in', '-m', 'MODEL', '--svd', 'no.safetensors'],
      /no\.safetensors/,
    ],
    ['factors that are damaged', ['generate', 'in', '-m', 'MODEL', '--svd', 'TEXT'], /text\.txt/],
    [
      'an output in no folder',
      ['generate', 'in', '-m', 'MODEL', '-o', 'FOLDER/no/out.txt'],
      /cannot be written/,
    ],
    ['an output that is a folder', ['svd', '-m', 'MODEL', '-o', 'FOLDER'], /it is a folder/],
  ])('%s', async (_, args, message) => {
    writeFileSync(join(folder, 'cut.gguf'), readFileSync(model).subarray(0, 30_000));
    writeFileSync(join(folder, 'latin.txt'), Uint8Array.of(0x63, 0x61, 0x66, 0xe9));
    const names: Record<string, string> = {
      OUT: join(folder, 'never.txt'),
      MODEL: model,
      TEXT: text,
      FOLDER: folder,
      CUT: join(folder, 'cut.gguf'),
      LATIN: join(folder, 'latin.txt'),
    };
    const filled = args.map((arg) => arg.replace(/^[A-Z]+(?=$|\/)/, (name) => names[name] ?? name));
    const before = readdirSync(folder).sort();
    const { code, stdout, stderr } = await runInProcess(filled);
    expect(stderr).toMatch(/^xquant: [^\n]+\n$/);
    expect(stderr).toMatch(message);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(readdirSync(folder).sort()).toEqual(before);
  });

  it('--verbose adds the stack', async () => {
    const { stderr } = await runInProcess(['info', '-m', 'nowhere.gguf', '--verbose']);
    expect(stderr).toMatch(/^xquant: [^\n]+\n(.|\n)*\n {4}at /);
  });
});

describe('help', () => {
  it('is on stdout when asked for, on stderr when it is all there is to say', async () => {
    expect(await runInProcess(['--help'])).toMatchObject({ code: 0, stderr: '' });
    expect(await runInProcess(['generate', '--help'])).toMatchObject({ code: 0, stderr: '' });
    expect(await runInProcess([])).toMatchObject({ code: 2, stdout: '' });
    const { stdout } = await runInProcess(['--version']);
    expect(stdout).toBe(`${JSON.parse(readFileSync('package.json', 'utf8')).version}\n`);
  });

  it.each(['generate', 'chat', 'perplexity', 'memory', 'svd', 'info'])('%s has --json', async (command) => {
    expect((await runInProcess(['--help'])).stdout).toMatch(new RegExp(`^ {2}${command} \\[options\\]`, 'm'));
    expect((await runInProcess([command, '--help'])).stdout).toMatch(/^ {2}--json /m);
  });
});
