/**
 * `xquant serve`: an OpenAI-compatible server that keeps conversations as XQuant caches.
 *
 * @module
 */

import { once } from 'node:events';
import { basename } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import type { ServerOptions } from '../serve/server.js';
import { chosenCache, createCache, type OpenedModel, runsOn, withModel } from './backend.js';
import { formatBytes } from './format.js';
import {
  addCacheOption,
  addCommonOptions,
  addRunOptions,
  addSamplingOptions,
  type ModelOptions,
  parseByteSize,
  parseCount,
  parsePositive,
  type SamplingFlags,
  samplingOptions,
} from './options.js';
import { readInputText, type Terminal, write } from './terminal.js';

interface ServeCommandOptions extends ModelOptions, SamplingFlags {
  readonly cache: string;
  readonly host: string;
  readonly port: number;
  readonly apiKey?: string;
  readonly alias?: string;
  readonly chatTemplate?: string;
  readonly parallel: number;
  readonly queue: number;
  readonly timeout: number;
  readonly bodyLimit: number;
  readonly cacheMemory: number;
  readonly cacheDir?: string;
  readonly cacheDisk: number;
}

/** Adds the command. */
export function addServeCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('serve')
    .description('answer OpenAI clients over HTTP, and keep their conversations in little memory')
    .option('--host <name>', 'address to listen on: by default only this machine reaches it', '127.0.0.1')
    .option('-p, --port <number>', 'port to listen on; 0 takes a free one', parsePort, 8080)
    .option('--api-key <key>', 'what clients must send (default: XQUANT_API_KEY, or none)')
    .option('--alias <name>', 'name of the model for clients (default: name of the file)')
    .option('--chat-template <file>', "Jinja template to use instead of the model's own")
    .option('--parallel <count>', 'answers that run at once, as one batch', parsePositive, 8)
    .option('--queue <count>', 'requests that wait for their turn; more get status 503', parseCount, 256)
    .option('--timeout <seconds>', 'for a request from its arrival to its end', parsePositive, 600)
    .option('--body-limit <size>', 'largest body of a request', parseByteSize, 4 * 1024 ** 2)
    .option('--cache-memory <size>', 'for conversations that wait to go on', parseByteSize, 512 * 1024 ** 2)
    .option('--cache-dir <folder>', 'where conversations go that do not fit, found again after a restart')
    .option('--cache-disk <size>', 'for conversations in that folder', parseByteSize, 8 * 1024 ** 3);
  addSamplingOptions(command);
  addRunOptions(command);
  addCommonOptions(command, 'print the address and the model as JSON');
  addCacheOption(command);
  command.action((options: ServeCommandOptions) =>
    runServe(options, command.getOptionValueSource('cache') !== 'default', terminal),
  );
}

async function runServe(
  asked: ServeCommandOptions,
  isCacheGiven: boolean,
  terminal: Terminal,
): Promise<void> {
  samplingOptions(asked); // before the model is loaded
  const template = asked.chatTemplate && (await readInputText(asked.chatTemplate, terminal));
  // Only this command needs the HTTP library.
  const { startServer, LOCAL_HOSTS } = await import('../serve/server.js');
  await withModel(asked, terminal, async (opened) => {
    const cache = await chosenCache(asked.cache, isCacheGiven, opened, terminal);
    const options = { ...asked, cache };
    const probe = await createCache(opened, cache, terminal); // with its factors
    probe.dispose();
    const server = await startServer(serverOptions(options, opened, template, terminal));
    try {
      await announce(server.url, options, opened, terminal);
      if (!LOCAL_HOSTS.includes(options.host) && apiKeyOf(options) === undefined) {
        await write(
          terminal.stderr,
          'xquant: whoever reaches this port may use it; --api-key asks for a key\n',
        );
      }
      if (!terminal.signal.aborted) await once(terminal.signal, 'abort');
    } finally {
      await server.close();
    }
    terminal.signal.throwIfAborted();
  });
}

function serverOptions(
  options: ServeCommandOptions,
  { model, tokenizer, fingerprint, header }: OpenedModel,
  template: string | undefined,
  { stderr }: Terminal,
): ServerOptions {
  // The seed of a request that names none is random; that of the flags would give everybody the same answer.
  const { seed: _seed, ...sampling } = samplingOptions(options);
  const modelId = options.alias ?? basename(options.model).replace(/\.gguf$/i, '');
  return {
    model,
    tokenizer,
    fingerprint,
    template: template ?? header.chatTemplate,
    cache: options.cache,
    sampling,
    modelId,
    modelAliases: [options.model],
    host: options.host,
    port: options.port,
    apiKey: apiKeyOf(options),
    parallel: options.parallel,
    queue: options.queue,
    timeoutSeconds: options.timeout,
    bodyLimit: options.bodyLimit,
    cacheMemory: options.cacheMemory,
    cacheDirectory: options.cacheDir,
    cacheDisk: options.cacheDisk,
    log: (message) => stderr.write(`xquant: ${message}\n`),
  };
}

async function announce(
  url: string,
  options: ServeCommandOptions,
  { model, header }: OpenedModel,
  { stdout, stderr }: Terminal,
): Promise<void> {
  if (options.json) {
    const info = { url: `${url}/v1`, model: header.name, ...runsOn(model), cache: options.cache };
    await write(stdout, `${JSON.stringify(info)}\n`);
    return;
  }
  const disk = options.cacheDir ? `, then ${formatBytes(options.cacheDisk)} in ${options.cacheDir}` : '';
  await write(stdout, `${url}/v1\n`);
  await write(
    stderr,
    `${header.name}, cache ${options.cache}, ${options.parallel} requests at once; ` +
      `conversations: ${formatBytes(options.cacheMemory)} in memory${disk}. Ctrl-C stops.\n`,
  );
}

/** An empty variable is none. */
function apiKeyOf({ apiKey }: ServeCommandOptions): string | undefined {
  return apiKey ?? (process.env.XQUANT_API_KEY || undefined);
}

function parsePort(text: string): number {
  const port = parseCount(text);
  if (port > 65_535) throw new InvalidArgumentError('It must be a port, from 0 to 65535.');
  return port;
}
