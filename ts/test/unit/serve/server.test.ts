import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI, { APIConnectionError, APIError, APIUserAbortError } from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTinyServer, type TinyServer } from '../../helpers/serving.js';

let server: TinyServer;
let client: OpenAI;
beforeAll(async () => {
  server = await startTinyServer();
  client = connect(server);
});
afterAll(() => server.close());

function connect({ url }: { url: string }, apiKey = 'none'): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
}

const user = (content: string) => ({ role: 'user', content }) as const;
const ASK = { model: 'tiny', messages: [user('in the rain')], max_tokens: 8, temperature: 0 };

describe('the openai client', () => {
  it('lists the model', async () => {
    const { data } = await client.models.list();
    expect(data).toMatchObject([{ id: 'tiny', object: 'model', owned_by: 'xquant' }]);
    expect((await client.models.retrieve('tiny')).id).toBe('tiny');
  });

  it('chats, whole and streamed, with the same text and usage', async () => {
    const whole = await client.chat.completions.create(ASK);
    expect(whole).toMatchObject({ object: 'chat.completion', model: 'tiny' });
    const [choice] = whole.choices;
    expect(choice).toMatchObject({ index: 0, finish_reason: 'length', message: { role: 'assistant' } });
    expect(whole.usage?.completion_tokens).toBe(8);
    const events = await client.chat.completions.create({
      ...ASK,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = '';
    let usage: OpenAI.CompletionUsage | null | undefined;
    const reasons: (string | null)[] = [];
    for await (const event of events) {
      text += event.choices[0]?.delta.content ?? '';
      if (event.choices[0]) reasons.push(event.choices[0].finish_reason);
      usage = event.usage;
    }
    expect(text).toBe(choice.message.content);
    expect(usage?.completion_tokens).toBe(8);
    expect(usage?.prompt_tokens).toBe(whole.usage?.prompt_tokens);
    expect(reasons.filter((reason) => reason !== null)).toEqual(['length']);
  });

  it('completes a text or its ids', async () => {
    const { choices, usage } = await client.completions.create({
      model: 'tiny',
      prompt: 'in the',
      max_tokens: 5,
      temperature: 0,
    });
    expect(usage?.completion_tokens).toBe(5);
    const stream = await client.completions.create({
      model: 'tiny',
      prompt: ['in the'],
      max_tokens: 5,
      temperature: 0,
      stream: true,
    });
    let text = '';
    for await (const event of stream) text += event.choices[0].text;
    expect(text).toBe(choices[0].text);
  });

  it('is told of each token and its alternatives', async () => {
    const { choices } = await client.chat.completions.create({ ...ASK, logprobs: true, top_logprobs: 3 });
    const content = choices[0].logprobs?.content ?? [];
    expect(content).toHaveLength(8);
    for (const { token, logprob, top_logprobs } of content) {
      expect(top_logprobs).toHaveLength(3);
      expect(top_logprobs[0].token).toBe(token); // greedy
      expect(logprob).toBeLessThanOrEqual(0);
    }
    const { choices: texts } = await client.completions.create({
      model: 'tiny',
      prompt: 'in the',
      max_tokens: 4,
      logprobs: 2,
      temperature: 0,
    });
    const { tokens, text_offset, token_logprobs } = texts[0].logprobs ?? {};
    expect(tokens).toHaveLength(4);
    expect(token_logprobs).toHaveLength(4);
    expect(text_offset?.[0]).toBe(0);
  });

  it('gets the same text for the same seed, and stops where it asks', async () => {
    // What was kept of earlier answers is quantized, and so part of the answer.
    const random = { ...ASK, temperature: 1, max_tokens: 20, cache_prompt: false };
    const text = async (seed: number, stop?: string) =>
      (await client.chat.completions.create({ ...random, seed, stop })).choices[0];
    const [a, again, other] = [await text(1), await text(1), await text(2)];
    expect(again.message.content).toBe(a.message.content);
    expect(other.message.content).not.toBe(a.message.content);
    const content = a.message.content ?? '';
    const stop = content.slice(4, 6);
    const stopped = await text(1, stop);
    expect(stopped.finish_reason).toBe('stop');
    expect(stopped.message.content).toBe(content.slice(0, content.indexOf(stop)));
  });

  it('gets several answers to one prompt, whole and streamed', async () => {
    const random = { ...ASK, temperature: 1, max_tokens: 12, cache_prompt: false, seed: 5 };
    const { choices, usage } = await client.chat.completions.create({ ...random, n: 3 });
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    const texts = choices.map(({ message }) => message.content);
    expect(new Set(texts).size).toBe(3);
    const alone = await client.chat.completions.create(random);
    expect(texts[0]).toBe(alone.choices[0].message.content);
    expect(usage?.prompt_tokens).toBe(alone.usage?.prompt_tokens);
    expect(usage?.completion_tokens).toBeGreaterThan(alone.usage?.completion_tokens ?? 0);

    const streamed = ['', '', ''];
    const ended = new Set<number>();
    for await (const { choices } of await client.chat.completions.create({ ...random, n: 3, stream: true })) {
      for (const { index, delta, finish_reason } of choices) {
        streamed[index] += delta.content ?? '';
        if (finish_reason) ended.add(index);
      }
    }
    expect(streamed).toEqual(texts);
    expect([...ended].sort()).toEqual([0, 1, 2]);
    const next = [...ASK.messages, { role: 'assistant' as const, content: texts[2] }, user('who')];
    const { usage: later } = await client.chat.completions.create({ ...ASK, messages: next });
    expect(later?.prompt_tokens_details?.cached_tokens).toBeGreaterThan(0);
  });

  it.each([0, 5, 1.5, 'many'])('is refused %j answers at once', async (n) => {
    const refused = client.chat.completions.create({ ...ASK, n: n as number });
    await expect(refused).rejects.toMatchObject({ status: 400, param: 'n' });
  });

  it('stops at a token', async () => {
    const ask = { model: 'tiny', prompt: 'in the', max_tokens: 6, temperature: 0, logit_bias: { 66: 100 } };
    const goesOn = await client.completions.create(ask);
    expect(goesOn).toMatchObject({ choices: [{ finish_reason: 'length' }], usage: { completion_tokens: 6 } });
    const stops = await client.completions.create({ ...ask, stop_token_ids: [66] } as typeof ask);
    expect(stops.choices[0]).toMatchObject({ finish_reason: 'stop', text: '' });
  });

  it('is told how much of a conversation was kept', async () => {
    const first = [user(`unique ${'in the inn '.repeat(4)}`)];
    const { choices, usage } = await client.chat.completions.create({ ...ASK, messages: first });
    expect(usage?.prompt_tokens_details?.cached_tokens).toBeLessThan(30);
    const more = [...first, { role: 'assistant' as const, content: choices[0].message.content }, user('who')];
    const next = await client.chat.completions.create({ ...ASK, messages: more });
    expect(next.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(
      (usage?.prompt_tokens ?? 0) - 16,
    );
    // The first question again finds its beginning in the longer conversation.
    const again = await client.chat.completions.create({ ...ASK, messages: first });
    expect(again.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThan(16);
  });

  it.each<[string, object, number, RegExp]>([
    ['another model', { model: 'gpt-4' }, 404, /there is no model "gpt-4" here; this server has "tiny"/],
    ['no messages', { messages: [] }, 400, /"messages" must be a list/],
    ['a role that there is not', { messages: [{ role: 'king', content: 'x' }] }, 400, /messages\[0\]\.role/],
    ['an image', { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }, 400, /only "text"/],
    ['tools', { tools: [{}] }, 400, /"tools": .* is not supported/],
    ['JSON', { response_format: { type: 'json_object' } }, 400, /"response_format"/],
    ['a parameter that there is not', { temprature: 1 }, 400, /"temprature": is not a parameter/],
    ['a switch that is a number', { cache_prompt: 1 }, 400, /"cache_prompt" must be true or false/],
    ['a temperature out of range', { temperature: 3 }, 400, /"temperature" must be a number from 0 to 2/],
    ['ids to stop at that are no list', { stop_token_ids: 5 }, 400, /"stop_token_ids" must be a list/],
    ['an id to stop at that there is not', { stop_token_ids: [99999] }, 400, /stopTokenIds token/],
    ['a bias of a token that there is not', { logit_bias: { 99999: 1 } }, 400, /logitBias/],
    ['a prompt that is too long', { messages: [user('x'.repeat(400))] }, 400, /at most 256 tokens/],
  ])('is told what is wrong: %s', async (_, change, status, message) => {
    const asking = client.chat.completions.create({ ...ASK, ...change } as typeof ASK);
    await expect(asking).rejects.toThrow(message);
    await expect(asking).rejects.toMatchObject({ status });
    await expect(asking).rejects.toBeInstanceOf(APIError);
  });

  it('knows by its code that the context is too short', async () => {
    const asking = client.chat.completions.create({ ...ASK, messages: [user('x'.repeat(400))] });
    await expect(asking).rejects.toMatchObject({ code: 'context_length_exceeded' });
  });
});

describe('the ai SDK', () => {
  const model = () => createOpenAICompatible({ name: 'xquant', baseURL: `${server.url}/v1` })('tiny');

  it('generates and streams the same text', async () => {
    const ask = { model: model(), prompt: 'in the rain', maxOutputTokens: 8, temperature: 0, maxRetries: 0 };
    const { text, usage, finishReason } = await generateText(ask);
    expect(usage.outputTokens).toBe(8);
    expect(finishReason).toBe('length');
    let streamed = '';
    for await (const piece of streamText(ask).textStream) streamed += piece;
    expect(streamed).toBe(text);
  });
});

describe('many at once', () => {
  it('get the answers that each would get alone', async () => {
    const questions = Array.from({ length: 24 }, (_, i) => `${i} in the ${'inn '.repeat(i % 5)}`);
    const ask = async (content: string, to: OpenAI) =>
      (await to.chat.completions.create({ ...ASK, messages: [user(content)] })).choices[0].message.content;
    const value = async (name: string) => {
      const metrics = await (await fetch(`${server.url}/metrics`)).text();
      return Number(new RegExp(`^xquant_${name} (\\d+)$`, 'm').exec(metrics)?.[1]);
    };
    const before = { tokens: await value('decode_tokens'), passes: await value('decode_passes') };
    const together = await Promise.all(questions.map((question) => ask(question, client)));
    const passes = (await value('decode_passes')) - before.passes;
    expect((await value('decode_tokens')) - before.tokens).toBeGreaterThan(1.5 * passes); // they shared passes
    const fresh = await startTinyServer({ parallel: 1 });
    for (const [i, question] of questions.entries())
      expect(await ask(question, connect(fresh))).toBe(together[i]);
    await fresh.close();
  });

  it('are turned away when too many wait, and served when the others are gone', async () => {
    const small = await startTinyServer({ parallel: 1, queue: 1 });
    const to = connect(small);
    const results = await Promise.allSettled(
      Array.from({ length: 6 }, () => to.chat.completions.create({ ...ASK, max_tokens: 60 })),
    );
    const refused = results.filter((each) => each.status === 'rejected');
    expect(refused.length).toBeGreaterThan(0);
    expect(results.length - refused.length).toBeGreaterThanOrEqual(2);
    for (const { reason } of refused) expect(reason).toMatchObject({ status: 503, code: 'server_busy' });
    await to.chat.completions.create(ASK);
    await small.close();
  });
});

describe('a client that goes', () => {
  const running = async () => {
    const metrics = await (await fetch(`${slow.url}/metrics`)).text();
    return Number(/^xquant_requests_running (\d+)$/m.exec(metrics)?.[1]);
  };
  const long = { ...ASK, max_tokens: 200 };
  let slow: TinyServer;
  beforeAll(async () => {
    slow = await startTinyServer({ passMs: 20 });
  });
  afterAll(() => slow.close());

  it('stops a stream', async () => {
    const client = connect(slow);
    const events = await client.chat.completions.create({ ...long, stream: true });
    for await (const _ of events) break;
    await expect.poll(running, { timeout: 5000 }).toBe(0);
  });

  it('stops an answer in one piece', async () => {
    const client = connect(slow);
    const controller = new AbortController();
    const asking = client.chat.completions.create(long, { signal: controller.signal });
    await expect.poll(running).toBe(1);
    controller.abort();
    await expect(asking).rejects.toThrow(APIUserAbortError);
    await expect.poll(running, { timeout: 5000 }).toBe(0);
  });

  it('or takes too long, gets an error and gives its place back', async () => {
    const impatient = await startTinyServer({ timeoutSeconds: 0.2, passMs: 20 });
    const to = connect(impatient);
    await expect(to.chat.completions.create(long)).rejects.toMatchObject({ status: 408, code: 'timeout' });
    const stream = async () => {
      for await (const _ of await to.chat.completions.create({ ...long, stream: true }));
    };
    await expect(stream()).rejects.toThrow(/longer than 0.2 s/);
    await impatient.close();
  });
});

describe('who may ask', () => {
  it('whoever has the key', async () => {
    const locked = await startTinyServer({ apiKey: 'secret' });
    await expect(connect(locked, 'wrong').models.list()).rejects.toMatchObject({ status: 401 });
    expect((await connect(locked, 'secret').models.list()).data).toHaveLength(1);
    expect((await fetch(`${locked.url}/metrics`)).status).toBe(401);
    expect(await (await fetch(`${locked.url}/health`)).json()).toEqual({ status: 'ok' });
    await locked.close();
  });

  it('only JSON, of a bounded size, to what is there', async () => {
    const post = (path: string, body: string, type = 'application/json') =>
      fetch(`${server.url}${path}`, { method: 'POST', body, headers: { 'content-type': type } });
    expect((await post('/v1/chat/completions', '{}', 'text/plain')).status).toBe(415);
    expect((await post('/v1/chat/completions', '{')).status).toBe(400);
    expect((await post('/v1/chat/completions', `"${'x'.repeat(100_000)}"`)).status).toBe(413);
    const lost = await post('/v1/embeddings', '{}');
    expect(lost.status).toBe(404);
    expect(await lost.json()).toMatchObject({
      error: { code: 'unknown_url', type: 'invalid_request_error' },
    });
  });

  it('nobody who calls this machine by another name', async () => {
    const { request } = await import('node:http');
    const status = await new Promise((resolve) => {
      const { hostname, port } = new URL(server.url);
      const headers = { host: 'evil.example' };
      request({ hostname, port, path: '/v1/models', headers }, ({ statusCode }) => resolve(statusCode)).end();
    });
    expect(status).toBe(403);
  });

  it('nobody once it is closed', async () => {
    const closed = await startTinyServer({ passMs: 20 });
    const to = connect(closed);
    const asking = to.chat.completions.create({ ...ASK, max_tokens: 200 });
    asking.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await closed.close();
    await expect(asking).rejects.toMatchObject({ status: 503, code: 'server_stopping' });
    await expect(to.models.list()).rejects.toThrow(APIConnectionError);
  });
});

describe('metrics', () => {
  it('are text that Prometheus reads', async () => {
    await client.chat.completions.create(ASK);
    const response = await fetch(`${server.url}/metrics`);
    expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
    const lines = (await response.text()).trimEnd().split('\n');
    for (const line of lines) {
      expect(line).toMatch(/^(# (HELP|TYPE) xquant_\w+ .+|xquant_\w+(\{\w+="[^"]*"\})? [\d.e+-]+)$/);
    }
    expect(lines.join('\n')).toMatch(/^xquant_responses_total\{status="200"\} [1-9]/m);
    expect(lines.join('\n')).toMatch(/^xquant_first_token_seconds_count [1-9]/m);
  });
});
