/**
 * Servers that send other bytes than were asked for, of another file, to another host, or without end.
 */

import { describe, expect, it, vi } from 'vitest';
import { FormatError, LoadError } from '../../../src/errors.js';
import { boundedFetch, MAX_REQUESTS, redacted, request, shownUrl } from '../../../src/io/http-request.js';
import { httpFolder, httpSource } from '../../../src/io/http-source.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { tinyFolder } from '../../helpers/hugging-face-folder.js';

const FILE = Uint8Array.from({ length: 5000 }, (_, i) => i % 251);
const URL_OF_FILE = 'https://models.example/tiny.gguf';

interface Asked {
  readonly url: string;
  readonly headers: Headers;
  readonly from: number;
  readonly to: number;
}

/** A server in one function; answers ranges of FILE unless `change` gives another answer. */
function server(change: (asked: Asked, count: number) => Response | undefined = () => undefined) {
  const asked: Asked[] = [];
  const send: typeof fetch = async (input, init) => {
    const headers = new Headers(init?.headers);
    const [, from = '0', to = '0'] = /^bytes=(\d+)-(\d+)$/.exec(headers.get('range') ?? '') ?? [];
    const one = { url: String(input), headers, from: Number(from), to: Number(to) };
    asked.push(one);
    return change(one, asked.length) ?? part(one.from, one.to);
  };
  return { send, asked };
}

/** Bytes `from` to `to` of FILE, with other headers if wanted. */
function part(from: number, to: number, headers: Record<string, string> = {}, bytes = FILE): Response {
  const range = `bytes ${from}-${to}/${FILE.length}`;
  return new Response(bytes.slice(from, to + 1), {
    status: 206,
    headers: { 'content-range': range, ...headers },
  });
}

async function readAll(
  fetch: typeof globalThis.fetch,
  headers?: Record<string, string>,
): Promise<Uint8Array> {
  const source = await httpSource(URL_OF_FILE, { fetch, headers });
  return source.read(0, source.size);
}

describe('ranges', () => {
  it('of the right file are put together', async () => {
    const { send, asked } = server(({ from, to }) => part(from, Math.min(to, from + 999)));
    expect(await readAll(send)).toEqual(FILE);
    expect(asked.map(({ from }) => from)).toEqual([0, 0, 1000, 2000, 3000, 4000]);
  });

  it.each([
    ['that begin elsewhere', () => part(10, 4999)],
    [
      'that end after what was asked for',
      ({ to }: Asked) => part(0, to, { 'content-range': 'bytes 0-5999/5000' }),
    ],
    ['that end before they begin', () => part(0, 10, { 'content-range': 'bytes 0-x/5000' })],
    ['without Content-Range', () => new Response(FILE, { status: 206 })],
  ])('%s are refused', async (_, answer) => {
    const { send } = server((one, count) => (count > 1 ? answer(one) : undefined));
    await expect(readAll(send)).rejects.toThrow(FormatError);
  });

  it('bytes beyond the range that an answer claims are not taken', async () => {
    const { send } = server(({ from, to }, count) => {
      if (count !== 2) return part(from, to);
      const range = { 'content-range': `bytes 0-99/${FILE.length}` };
      return new Response(new Uint8Array(5000).fill(7), { status: 206, headers: range });
    });
    const bytes = await readAll(send);
    expect(bytes.subarray(0, 100).every((byte) => byte === 7)).toBe(true);
    expect(bytes.subarray(100)).toEqual(FILE.subarray(100));
  });

  it('of a file that changes meanwhile are refused, by every means a server has to say so', async () => {
    const other = [
      (asked: Asked) => part(asked.from, asked.to, { etag: '"two"' }),
      () => new Response(FILE, { status: 200 }), // the answer to If-Range
      (asked: Asked) =>
        part(asked.from, asked.to, { 'content-range': `bytes ${asked.from}-${asked.to}/6000` }),
    ];
    for (const change of other) {
      const { send } = server((asked, count) =>
        count === 1 ? part(0, 0, { etag: '"one"' }) : change(asked),
      );
      await expect(readAll(send)).rejects.toThrow(/the file changed on the way/);
    }
    const dated = (asked: Asked, count: number) =>
      part(asked.from, asked.to, { 'last-modified': `Wed, 0${count} Jul 2026 00:00:00 GMT` });
    await expect(readAll(server(dated).send)).rejects.toThrow(/the file changed on the way/);
  });

  it.each([
    [{ etag: '"one"', 'last-modified': 'Wed, 01 Jul 2026 00:00:00 GMT' }, '"one"'],
    [{ etag: 'W/"weak"', 'last-modified': 'Wed, 01 Jul 2026 00:00:00 GMT' }, 'Wed, 01 Jul 2026 00:00:00 GMT'],
    [{}, null],
  ])('are asked for with If-Range: %j', async (headers, condition) => {
    const { send, asked } = server(({ from, to }) => part(from, to, headers as Record<string, string>));
    expect(await readAll(send)).toEqual(FILE);
    expect(asked.slice(1).map((each) => each.headers.get('if-range'))).toEqual([condition]);
  });

  it('a byte at a time are given up', async () => {
    const { send, asked } = server(({ from }) => part(from, from));
    await expect(readAll(send)).rejects.toThrow(/too many pieces/);
    expect(asked.length).toBeLessThan(30);
  });
});

describe('whole files', () => {
  it('that go on beyond what was announced, or without end, are cut off', async () => {
    const endless = () =>
      new ReadableStream<Uint8Array>({ pull: (controller) => controller.enqueue(new Uint8Array(2 ** 20)) });
    const announced = server(() => new Response(endless(), { headers: { 'content-length': '5000' } }));
    await expect(readAll(announced.send)).rejects.toThrow(/more than 5000 bytes/);
    const bomb = server(() => new Response(endless(), { headers: { 'content-encoding': 'gzip' } }));
    const source = httpSource(URL_OF_FILE, { fetch: bomb.send, maxBytes: 2 ** 24 });
    await expect(source).rejects.toThrow(/more than 16777216 bytes/);
    const config = httpFolder('https://models.example/m/', { fetch: bomb.send }).open('config.json');
    await expect(config).rejects.toThrow(/more than 268435456 bytes/);
  });
});

describe('redirects', () => {
  const to = (location: string) => new Response(null, { status: 302, headers: { location } });

  it('to another origin leave the headers of the user behind, for good', async () => {
    const { send, asked } = server(({ url }) => {
      if (url === URL_OF_FILE) return to('https://cdn.example/a');
      return url === 'https://cdn.example/a' ? to(`${URL_OF_FILE}?back`) : undefined;
    });
    expect(await readAll(send, { Authorization: 'Bearer hf_secret', 'X-Api-Key': 'key' })).toEqual(FILE);
    for (const { url, headers } of asked) {
      const mine = url === URL_OF_FILE;
      expect(headers.has('authorization'), url).toBe(mine);
      expect(headers.has('x-api-key'), url).toBe(mine);
      expect(headers.has('range'), url).toBe(true);
    }
  });

  it('within the origin keep them', async () => {
    const { send, asked } = server(({ url }) => (url === URL_OF_FILE ? to('/b') : undefined));
    expect(await readAll(send, { 'X-Api-Key': 'key' })).toEqual(FILE);
    expect(asked.every(({ headers }) => headers.get('x-api-key') === 'key')).toBe(true);
  });

  it.each(['file:///etc/passwd', 'http://', 'https://user:pass@b.example/', URL_OF_FILE])(
    'to %s end',
    async (location) => {
      await expect(readAll(server(() => to(location)).send)).rejects.toThrow(LoadError);
    },
  );
});

describe('a busy server', () => {
  it('is asked again after as long as it says, and left if that is too long', async () => {
    vi.useFakeTimers();
    try {
      const busy = (after: string) => new Response(null, { status: 429, headers: { 'retry-after': after } });
      const { send, asked } = server((_, count) => (count === 1 ? busy('30') : undefined));
      const answer = request(URL_OF_FILE, { fetch: send }, {});
      await vi.advanceTimersByTimeAsync(29_000);
      expect(asked.length).toBe(1);
      await vi.advanceTimersByTimeAsync(2_000);
      expect((await answer).status).toBe(206);
      const date = new Date(Date.now() + 3_600_000).toUTCString();
      for (const after of ['3600', date]) {
        const long = request(URL_OF_FILE, { fetch: server(() => busy(after)).send }, {});
        await expect(long).rejects.toThrow(/status 429.*come back in 3\d\d\d s/);
      }
    } finally {
      vi.useRealTimers();
    }
  });

  it('is not waited for after the signal', async () => {
    const controller = new AbortController();
    const busy = server(() => new Response(null, { status: 503, headers: { 'retry-after': '50' } }));
    const answer = request(URL_OF_FILE, { fetch: busy.send, signal: controller.signal }, {});
    setTimeout(() => controller.abort(new Error('enough')), 20);
    await expect(answer).rejects.toThrow('enough');
  });
});

describe('secrets', () => {
  it('of an address are not shown', () => {
    expect(shownUrl('https://a:b@x.example/m.gguf?token=abc&X-Amz-Signature=d#e')).toBe(
      'https://x.example/m.gguf?...',
    );
    expect(redacted('no "Bearer hf_secret" or hf_secret', ['Bearer hf_secret'])).toBe('no "***" or ***');
  });

  it('are in no message, whatever goes wrong', async () => {
    const url = 'https://x.example/m.gguf?signature=topsecret';
    const headers = { Authorization: 'Bearer hf_secret' };
    const failures: (typeof fetch)[] = [
      async () => {
        throw new TypeError(`fetch failed: ${url} with Bearer hf_secret`);
      },
      async () => new Response('', { status: 403 }),
      server((_, count) => (count > 1 ? part(7, 9) : undefined)).send,
    ];
    for (const fetch of failures) {
      const source = httpSource(url, { fetch, headers }).then((each) => each.read(0, 10));
      const error: unknown = await source.catch((thrown: unknown) => thrown);
      let text = '';
      for (let at = error; at instanceof Error; at = at.cause) text += `${at.message} ${at.stack}`;
      expect(text).not.toMatch(/secret/);
      expect(text).toMatch(/x\.example\/m\.gguf/);
    }
    await expect(httpSource('https://me:topsecret@x.example/')).rejects.not.toThrow(/topsecret/);
    const bad = httpSource('https://x.example/', { headers: { Authorization: 'Bearer hf_secret\n!' } });
    await expect(bad).rejects.not.toThrow(/hf_secret/);
  });
});

describe('names of files in an index', () => {
  it.each([
    'http:evil.safetensors',
    'https://evil.example/x.safetensors',
    '//evil.example/x.safetensors',
    '../x.safetensors',
    '..%2fx.safetensors',
    'a/b.safetensors',
    'a\\b.safetensors',
    'x.bin?.safetensors',
    'x#.safetensors',
    'ht\ntp:x.safetensors',
    ' x.safetensors',
    '.safetensors',
    'C:x.safetensors',
    '\u202ex.safetensors',
    `${'x'.repeat(300)}.safetensors`,
    'model.bin',
    null,
    {},
  ])('%j is refused, and no header leaves for another host', async (file) => {
    const files = tinyFolder({ shards: 2 });
    const index = { weight_map: { 'model.norm.weight': file } };
    files.set('model.safetensors.index.json', new TextEncoder().encode(JSON.stringify(index)));
    const hosts: string[] = [];
    const send: typeof fetch = async (input) => {
      const { host, pathname } = new URL(String(input));
      hosts.push(host);
      const bytes = files.get(pathname.slice(1));
      return bytes ? new Response(bytes as Uint8Array<ArrayBuffer>) : new Response(null, { status: 404 });
    };
    const load = loadModelFile('https://models.example/', { fetch: send, headers: { 'X-Key': 'secret' } });
    await expect(load).rejects.toThrow(/must name a \.safetensors file of the folder/);
    expect(new Set(hosts)).toEqual(new Set(['models.example']));
  });

  it('plain ones of any language are read', async () => {
    const { send, asked } = server();
    const folder = httpFolder('https://models.example/m/', { fetch: send });
    await folder.open('モデル-00001 of 2.safetensors');
    expect(asked[0].url).toBe(
      `https://models.example/m/${encodeURIComponent('モデル-00001 of 2.safetensors')}`,
    );
    await expect(folder.open('../x')).rejects.toThrow(FormatError);
  });
});

describe('listings of the hub', () => {
  const hub = 'https://hub.example';
  const load = (send: typeof fetch) =>
    loadModelFile('hf:me/one', { hubUrl: hub, accessToken: 'hf_secret', fetch: send });

  it.each(['https://evil.example/api/models/me/one/tree/main?cursor=2', 'http://hub.example/next'])(
    'do not go on at %s',
    async (next) => {
      const asked: string[] = [];
      const send: typeof fetch = async (input) => {
        asked.push(String(input));
        return Response.json([], { headers: { link: `<${next}>; rel="next"` } });
      };
      await expect(load(send)).rejects.toThrow(/sends us to another host/);
      expect(asked.every((url) => url.startsWith(`${hub}/`))).toBe(true);
    },
  );

  it('end', async () => {
    const link = { link: `<${hub}/api/models/me/one/tree/main?cursor=2>; rel="next"` };
    await expect(load(async () => Response.json([], { headers: link }))).rejects.toThrow(
      /more than 100 pages/,
    );
  });

  it.each(['../other/x.gguf', 'a/../../x.gguf', '/x.gguf', 'a\\..\\x.gguf', '', null, {}, 5])(
    'a path %j is refused',
    async (path) => {
      await expect(load(async () => Response.json([{ type: 'file', path }]))).rejects.toThrow(FormatError);
    },
  );

  it.each([null, 5, {}, [null], [[]], 'x'])('%j instead of a list is an error of ours', async (body) => {
    await expect(load(async () => Response.json(body))).rejects.toThrow(/hf:me\/one: /);
  });

  it('messages never show the token', async () => {
    const says = (text: string) => new Response(JSON.stringify({ error: text }), { status: 500 });
    await expect(load(async () => says('bad token hf_secret'))).rejects.not.toThrow(/hf_secret/);
    await expect(load(async () => says('bad token hf_secret'))).rejects.toThrow(/bad token \*\*\*/);
  });
});

describe('the requests of one load', () => {
  it('are bounded, by what has come', async () => {
    let [asked, received] = [0, 0];
    const send = boundedFetch(
      async () => {
        asked++;
        return new Response('');
      },
      () => received,
    );
    const askAll = async () => {
      for (;;) await send('https://models.example/?key=secret');
    };
    await expect(askAll()).rejects.toThrow(LoadError);
    expect(asked).toBe(MAX_REQUESTS);
    received = 3 * 2 ** 20;
    await expect(askAll()).rejects.toThrow(/^https:\/\/models\.example\/\?\.\.\.: .*one request too many/);
    expect(asked).toBe(MAX_REQUESTS + 3);
  });
});
