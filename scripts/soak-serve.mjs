/**
 * Many clients at one server for a long time: every answer must come, and be its client's own.
 *
 *     npm run soak -- [--clients 200] [--minutes 10] [--model books-mha] [--cache xquant:4] [--cache-memory 64M]
 *
 * Each client biases its answers to a token of its own, so an answer that is another client's is seen at its first
 * character. Conversations grow turn by turn and begin again when the context is full; now and then a client leaves in the
 * middle of an answer. Needs a build.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadModelFile, Tokenizer } from '../dist/index.js';

const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '200' },
    minutes: { type: 'string', default: '10' },
    model: { type: 'string', default: 'books-mha' },
    cache: { type: 'string', default: 'xquant:4' },
    'cache-memory': { type: 'string', default: '64M' },
    'cache-dir': { type: 'string' },
  },
});
const clients = Number(values.clients);
const { tokenizer: source, config } = await loadModelFile(values.model);
const tokenizer = new Tokenizer(source);
/** Tokens that are words of their own, one for each client. */
const words = Array.from({ length: config.vocabSize }, (_, id) => id)
  .filter((id) => /^ ?[A-Za-z]+$/.test(tokenizer.decode([id])))
  .slice(0, clients);
if (words.length < clients)
  throw new Error(`the vocabulary has ${words.length} words for ${clients} clients`);

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const args = [
  'serve',
  '--model',
  values.model,
  '--cache',
  values.cache,
  '--cache-memory',
  values['cache-memory'],
];
if (values['cache-dir']) args.push('--cache-dir', values['cache-dir']);
const server = spawn(process.execPath, [main, ...args, '--port', '0', '--queue', values.clients, '--json'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
const [line] = await once(createInterface({ input: server.stdout }), 'line');
const { url } = JSON.parse(line);

const end = Date.now() + Number(values.minutes) * 60_000;
const count = { answers: 0, left: 0, failed: 0, mixed: 0, cached: 0, prompt: 0 };

/** One conversation after another. */
async function client(index) {
  const id = words[index];
  const word = tokenizer.decode([id]);
  let prompt = `Client ${index} says`;
  for (let turn = 0; Date.now() < end; turn++) {
    const leaves = (turn + index) % 17 === 16;
    const controller = new AbortController();
    const body = {
      model: values.model,
      prompt,
      max_tokens: 24,
      logit_bias: { [id]: 100 },
      stream: turn % 2 === 1,
    };
    try {
      if (leaves) setTimeout(() => controller.abort(), 50);
      const response = await fetch(`${url}/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body.stream ? { ...body, stream_options: { include_usage: true } } : body),
        signal: controller.signal,
      });
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
      const { text, usage } = body.stream ? readEvents(await response.text()) : whole(await response.json());
      if (text.trim().split(word.trim()).join('').trim() !== '') count.mixed++;
      count.answers++;
      count.cached += usage.prompt_tokens_details.cached_tokens;
      count.prompt += usage.prompt_tokens;
      prompt =
        usage.total_tokens > config.maxPositionEmbeddings / 2
          ? `Client ${index} says`
          : `${prompt}${text} and`;
    } catch (error) {
      if (controller.signal.aborted) count.left++;
      else {
        count.failed++;
        process.stderr.write(`client ${index}: ${error.message}\n`);
        await sleep(1000);
      }
    }
  }
}

function whole({ choices: [{ text }], usage }) {
  return { text, usage };
}

/** @param {string} events of a stream that has ended */
function readEvents(events) {
  if (!events.trimEnd().endsWith('data: [DONE]')) throw new Error('the stream has no end');
  const parts = [...events.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json));
  return {
    text: parts.map(({ choices: [choice] }) => choice?.text ?? '').join(''),
    usage: parts.at(-1).usage,
  };
}

let most = 0;
/** Seconds between two lines of progress where there is no terminal. */
const QUIET_SECONDS = 30;
let second = 0;
const watch = setInterval(() => {
  const status = readFileSync(`/proc/${server.pid}/status`, 'utf8');
  most = Math.max(most, Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1000);
  const progress = `${count.answers} answers, ${most.toFixed(0)} MB at most`;
  if (process.stderr.isTTY) process.stderr.write(`\r${progress} `);
  else if (second++ % QUIET_SECONDS === 0) process.stderr.write(`${progress}\n`);
}, 1000);
await Promise.all(Array.from({ length: clients }, (_, index) => client(index)));
clearInterval(watch);
server.kill('SIGTERM');
await once(server, 'exit');
const share = ((100 * count.cached) / count.prompt).toFixed(0);
process.stdout.write(
  `\n${count.answers} answers to ${clients} clients, ${count.mixed} mixed, ${count.failed} failed, ${count.left} left early; ` +
    `${share} % of the prompts were kept; server at most ${most.toFixed(0)} MB\n`,
);
process.exitCode = count.mixed + count.failed > 0 ? 1 : 0;
