import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FormatError, LoadError, UnsupportedModelError } from '../../../src/errors.js';
import { httpFolder } from '../../../src/io/http-source.js';
import { loadModelFile, readModelHeader } from '../../../src/io/load-model.js';
import { checkKeptModel, isKept, listKeptModels, ModelKeeper } from '../../../src/io/node-kept-models.js';
import { type FileServer, serveFiles, serveHub } from '../../helpers/file-server.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { runInProcess } from '../../helpers/run-cli.js';

const tiny = tinyModelGguf({ layers: 2, scale: 0.3 });
const other = tinyModelGguf({ layers: 2, scale: 0.3, seed: 2 });
const servers: FileServer[] = [];
let folder = '';
let before: string | undefined;

beforeAll(() => {
  before = process.env.XDG_CACHE_HOME;
});
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'xquant-kept-'));
  process.env.XDG_CACHE_HOME = folder;
});
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
  rmSync(folder, { recursive: true });
});
afterAll(() => {
  process.env.XDG_CACHE_HOME = before;
});

/** A server whose files a test may change. */
async function start(content: Record<string, Uint8Array>) {
  const files = new Map(Object.entries(content));
  const server = await serveFiles(files);
  server.behaviour.hashes = true;
  servers.push(server);
  return { files, server, bytes: () => server.requests.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/** Every file below the cache folder. */
const onDisk = () =>
  readdirSync(folder, { recursive: true })
    .map(String)
    .filter((name) => /files.[^/]+$/.test(name));
const keep = { keep: true };

describe.each([true, false])('a model from a URL (ranges: %s)', (ranges) => {
  it('is downloaded once, and then read from disk, without a network too', async () => {
    const { server, bytes } = await start({ '/tiny.gguf': tiny });
    server.behaviour.ranges = ranges;
    const url = `${server.url}/tiny.gguf`;
    const first = await loadModelFile(url, keep);
    expect(await isKept(url)).toBe(true);
    if (ranges) {
      const downloaded = bytes();
      const again = await loadModelFile(url, keep);
      expect(again.fingerprint).toBe(first.fingerprint);
      expect(bytes() - downloaded).toBe(1); // byte 0, to see whether it is the same file
    }
    await server.close();
    const offline = await loadModelFile(url, keep);
    expect(offline.fingerprint).toBe(first.fingerprint);
    expect((await readModelHeader(url, keep)).name).toBe('tiny llama');
    await expect(loadModelFile(url)).rejects.toThrow(LoadError);
  });
});

describe('what is kept', () => {
  it('is the bytes of the server, under a name of its own only when all is there', async () => {
    const { server } = await start({ '/tiny.gguf': tiny });
    await loadModelFile(`${server.url}/tiny.gguf`, keep);
    const [file, ...rest] = onDisk();
    expect(rest).toEqual([]);
    expect(readFileSync(join(folder, file)).equals(tiny)).toBe(true);
  });

  it('is nothing of a model that does not run, nor of one whose header alone was read', async () => {
    const foreign = tinyModelGguf({
      edit: ({ metadata }) => Object.assign(metadata, { 'general.architecture': 'rwkv' }),
    });
    const { server } = await start({ '/foreign.gguf': foreign, '/tiny.gguf': tiny });
    await expect(loadModelFile(`${server.url}/foreign.gguf`, keep)).rejects.toThrow(UnsupportedModelError);
    expect((await readModelHeader(`${server.url}/tiny.gguf`, keep)).name).toBe('tiny llama');
    expect(onDisk()).toEqual([]);
    expect(await listKeptModels()).toEqual([]);
  });

  it('is replaced when the server has another file', async () => {
    const { files, server } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/tiny.gguf`;
    const first = await loadModelFile(url, keep);
    files.set('/tiny.gguf', other);
    const second = await loadModelFile(url, keep);
    expect(second.fingerprint).not.toBe(first.fingerprint);
    expect(readFileSync(join(folder, onDisk()[0])).equals(other)).toBe(true);
  });

  it('is not taken from a file that has become shorter', async () => {
    const { server } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/tiny.gguf`;
    const { fingerprint } = await loadModelFile(url, keep);
    const path = join(folder, onDisk()[0]);
    writeFileSync(path, tiny.subarray(0, 1000));
    expect((await loadModelFile(url, keep)).fingerprint).toBe(fingerprint);
    expect(readFileSync(path).equals(tiny)).toBe(true);
  });

  it('is refused if the server announced another hash', async () => {
    const { server } = await start({ '/a.bin': tiny });
    const keeper = await ModelKeeper.open(`${server.url}/`, {});
    keeper.downloads = true;
    const lying = {
      ...httpFolder(`${server.url}/`),
      open: async () => ({
        name: 'a.bin',
        size: tiny.length,
        version: `"${'0'.repeat(64)}"`,
        read: async (at: number, length: number) => tiny.subarray(at, at + length),
        close: async () => undefined,
      }),
    };
    await expect(keeper.wrap(lying).open('a.bin')).rejects.toThrow(FormatError);
    expect(onDisk().filter((name) => !name.endsWith('.json'))).toEqual([]);
  });

  it.each(['../a', 'a/../../b', 'a//b', 'a\\\\b', ''])('never lies outside its folder (%j)', async (name) => {
    const { server } = await start({ '/a.bin': tiny });
    const keeper = await ModelKeeper.open(`${server.url}/`, {});
    keeper.downloads = true;
    const { close: _, ...remote } = { ...httpFolder(`${server.url}/`), close: undefined };
    const any = { ...remote, open: async () => httpFolder(`${server.url}/`).open('a.bin') };
    await expect(keeper.wrap(any).open(name)).rejects.toThrow(FormatError);
  });
});

describe('a download that breaks off', () => {
  const pieceBytes = 20_000;

  async function download(url: string): Promise<void> {
    const keeper = await ModelKeeper.open(url, { pieceBytes });
    keeper.downloads = true;
    await keeper.wrap(httpFolder(url)).open('tiny.gguf');
  }

  it('goes on where it was', async () => {
    const { server, bytes } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/`;
    let left = 3;
    const breaking = {
      ...httpFolder(url),
      open: async (name: string) => {
        const source = await httpFolder(url).open(name);
        const read = (at: number, length: number) => {
          if (left-- === 0) throw new LoadError(url, 'the connection broke');
          return source!.read(at, length);
        };
        return source && { ...source, read };
      },
    };
    const keeper = await ModelKeeper.open(url, { pieceBytes });
    keeper.downloads = true;
    await expect(keeper.wrap(breaking).open('tiny.gguf')).rejects.toThrow('the connection broke');
    expect(await isKept(url)).toBe(false);
    expect(onDisk().some((name) => name.endsWith('tiny.gguf'))).toBe(false);
    const arrived = bytes();
    await download(url);
    expect(bytes() - arrived).toBe(tiny.length - 3 * pieceBytes + 1);
    const path = onDisk();
    expect(path).toHaveLength(1);
    expect(readFileSync(join(folder, path[0])).equals(tiny)).toBe(true);
  });

  it('starts over if the server has another file by then', async () => {
    const { files, server } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/`;
    await download(url);
    const [path] = onDisk().map((name) => join(folder, name));
    const half = tiny.subarray(0, 2 * pieceBytes);
    rmSync(path);
    writeFileSync(`${path}.part`, half);
    writeFileSync(`${path}.part.json`, JSON.stringify({ size: tiny.length, version: '"earlier"' }));
    files.set('/tiny.gguf', other);
    await download(url);
    expect(readFileSync(path).equals(other)).toBe(true);
  });

  it('takes over from a process that was killed', async () => {
    const { server } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/`;
    await download(url);
    const [path] = onDisk().map((name) => join(folder, name));
    rmSync(path);
    writeFileSync(`${path}.lock`, String(2 ** 22 + 1)); // above the largest process id
    await download(url);
    expect(existsSync(`${path}.lock`)).toBe(false);
    expect(readFileSync(path).equals(tiny)).toBe(true);
  });

  it('happens once where two processes want the same file', async () => {
    const { server, bytes } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/`;
    await Promise.all([download(url), download(url)]);
    expect(bytes()).toBe(tiny.length + 2); // and byte 0 for each
    expect(onDisk()).toHaveLength(1);
  });
});

describe('the hub', () => {
  const repository = 'someone/tiny@main';

  it('is asked whether the file is the same, and not needed once all is there', async () => {
    const server = await serveHub({ [repository]: new Map([['sub/tiny.gguf', tiny]]) });
    server.behaviour.hashes = true;
    servers.push(server);
    const options = { ...keep, hubUrl: server.url };
    const source = 'hf:someone/tiny/sub/tiny.gguf';
    const { fingerprint } = await loadModelFile(source, options);
    const sent = server.requests.length;
    await loadModelFile(source, options);
    const large = server.requests.slice(sent).filter(({ bytes }) => bytes > 1000);
    expect(large).toEqual([]);
    await server.close();
    expect((await loadModelFile(source, options)).fingerprint).toBe(fingerprint);
  });

  it('is not asked at all for a commit', async () => {
    const commit = 'a'.repeat(40);
    const server = await serveHub({ [`someone/tiny@${commit}`]: new Map([['tiny.gguf', tiny]]) });
    servers.push(server);
    const options = { ...keep, hubUrl: server.url };
    const source = `hf:someone/tiny@${commit}`;
    await loadModelFile(source, options);
    const sent = server.requests.length;
    await loadModelFile(source, options);
    expect(server.requests.length).toBe(sent);
  });

  it('says that a model is gone, though it is kept', async () => {
    const server = await serveHub({ [repository]: new Map([['tiny.gguf', tiny]]) });
    servers.push(server);
    await loadModelFile('hf:someone/tiny', { ...keep, hubUrl: server.url });
    server.behaviour.token = 'hf_secret';
    await expect(loadModelFile('hf:someone/tiny', { ...keep, hubUrl: server.url })).rejects.toThrow(
      /status 401/,
    );
  });
});

describe('xquant models', () => {
  it('lists, checks and removes', async () => {
    const { server } = await start({ '/tiny.gguf': tiny, '/other.gguf': other });
    const empty = await runInProcess(['models']);
    expect(empty).toEqual({ code: 0, stderr: '', stdout: `no models in ${join(folder, 'xquant')}\n` });
    const urls = ['other', 'tiny'].map((name) => `${server.url}/${name}.gguf`);
    for (const url of urls) {
      const run = await runInProcess(['generate', 'a', '-m', url, '-n', '1', '-c', 'kv', '--threads', '1']);
      expect([run.code, run.stderr]).toEqual([0, '']);
    }
    const { stdout } = await runInProcess(['models']);
    for (const url of urls) expect(stdout).toContain(url);
    const json = (await runInProcess(['models', '--json'])).stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(json.map(({ source, complete, files }) => ({ source, complete, files }))).toEqual(
      urls.map((source) => ({ source, complete: true, files: [source.split('/').pop()] })),
    );

    expect((await runInProcess(['models', '--check'])).code).toBe(0);
    const [kept] = await listKeptModels();
    const path = join(kept.folder, 'files', kept.files[0]);
    const damaged = readFileSync(path);
    damaged[damaged.length >> 1] ^= 1;
    writeFileSync(path, damaged);
    const check = await runInProcess(['models', '--check']);
    expect(check.code).toBe(1);
    expect(check.stderr).toBe(`xquant: ${path}: was damaged and is removed\n`);
    expect(check.stdout).toMatch(/other\.gguf .* incomplete$/m);
    expect(await checkKeptModel((await listKeptModels())[1])).toEqual([]);

    const wrong = await runInProcess(['models', '--remove', `${urls[1]}f`]);
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toContain(`did you mean "${urls[1]}"?`);
    for (const url of urls)
      expect((await runInProcess(['models', '--remove', url])).stderr).toBe(`removed ${url}\n`);
    expect(await listKeptModels()).toEqual([]);
  });

  it('--no-keep leaves nothing on disk', async () => {
    const { server } = await start({ '/tiny.gguf': tiny });
    const url = `${server.url}/tiny.gguf`;
    const args = ['generate', 'a', '-m', url, '-n', '1', '-c', 'kv', '--threads', '1'];
    expect((await runInProcess([...args, '--no-keep'])).code).toBe(0);
    expect(await listKeptModels()).toEqual([]);
  });

  it('a disk that cannot be written to is an error that names it', async () => {
    const { server } = await start({ '/tiny.gguf': tiny });
    mkdirSync(join(folder, 'xquant'));
    writeFileSync(join(folder, 'xquant/models'), 'a file where the folder should be');
    await expect(loadModelFile(`${server.url}/tiny.gguf`, keep)).rejects.toThrow(/models.*cannot be kept/);
  });
});
