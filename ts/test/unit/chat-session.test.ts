import { describe, expect, it } from 'vitest';
import { ChatSession } from '../../src/chat-session.js';
import { CacheStateError, ConfigError, FormatError } from '../../src/errors.js';
import { CachedSequence, generate } from '../../src/generate.js';
import { writeSnapshot } from '../../src/io/snapshot.js';
import { ByteTokenizer, TINY_CONFIG, tinyModel } from '../helpers/tiny-model.js';

const TEMPLATE = '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>';
const CONTEXT = TINY_CONFIG.maxPositionEmbeddings;
const model = tinyModel();
const tokenizer = new ByteTokenizer();
const OPTIONS = { maxTokens: 8, ignoreEos: true };
/** The random model says bytes that are no characters; a letter each keeps text and tokens in step. */
const LETTERS = {
  ...OPTIONS,
  logitBias: new Map(Array.from({ length: 257 }, (_, id) => [id, id >= 97 && id < 123 ? 0 : -Infinity])),
};

const session = (more: object = {}) =>
  new ChatSession(model, tokenizer, { template: TEMPLATE, cache: 'xquant:4?window=16', ...more });

describe('a conversation', () => {
  it('gives the answers of the rendered text, whatever was in the cache before', async () => {
    const chat = session({ system: 'S', cache: 'kv' });
    const texts: string[] = [];
    let prompt = '<system>S';
    for (const question of ['one', 'two', 'three']) {
      prompt += `<user>${question}`;
      const { text } = await chat.send(question, LETTERS).finish();
      const fresh = await generate(model, tokenizer, `${prompt}<a>`, { ...LETTERS, cache: 'kv' }).finish();
      expect(text).toBe(fresh.text);
      prompt += `<assistant>${text}`;
      texts.push(text);
    }
    expect(chat.messages.map(({ role }) => role).join()).toBe(
      'system,user,assistant,user,assistant,user,assistant',
    );
    expect(chat.messages.filter(({ role }) => role === 'assistant').map(({ content }) => content)).toEqual(
      texts,
    );
  });

  it('runs only what is new', async () => {
    const chat = session();
    const first = await chat.send('one', LETTERS).finish();
    const second = await chat.send('two', LETTERS).finish();
    // Up to where the template goes on differently: "<a>" became "<assistant>".
    expect(second.reusedTokens).toBeGreaterThanOrEqual(first.promptTokens - 2 - 16);
    expect(second.promptTokens).toBeGreaterThan(first.promptTokens);
  });

  it('takes a question back that was stopped before any text, and keeps an answer that was stopped later', async () => {
    const chat = session();
    const early = chat.send('one', { ...LETTERS, signal: AbortSignal.abort() });
    await expect(early.finish()).rejects.toThrow();
    expect(chat.messages).toEqual([]);
    const controller = new AbortController();
    let text = '';
    const late = (async () => {
      for await (const token of chat.send('two', { ...LETTERS, signal: controller.signal })) {
        text += token.text;
        if (text.length === 3) controller.abort();
      }
    })();
    await expect(late).rejects.toThrow();
    expect(chat.messages.map(({ content }) => content)).toEqual(['two', text]);
    expect((await chat.send('three', LETTERS).finish()).generatedTokens).toBe(8);
  });

  it('gives one answer at a time', async () => {
    const chat = session();
    const answer = chat.send('one', LETTERS);
    const other = chat.send('two', LETTERS);
    await answer[Symbol.asyncIterator]().next();
    await expect(other.finish()).rejects.toThrow(CacheStateError);
    expect(() => chat.send('three')).toThrow(CacheStateError);
    expect(() => chat.reset()).toThrow(CacheStateError);
    await answer.finish();
    expect(chat.messages).toHaveLength(2);
  });
});

describe('a full context', () => {
  it('drops the oldest turns and keeps the system message', async () => {
    const chat = session({ system: 'always here' });
    let dropped = 0;
    for (let i = 0; i < 12; i++) {
      const answer = chat.send(`question ${i} ${'x'.repeat(30)}`, LETTERS);
      dropped += answer.droppedMessages;
      const { promptTokens } = await answer.finish();
      expect(promptTokens + 8).toBeLessThanOrEqual(CONTEXT);
      expect(chat.messages[0]).toEqual({ role: 'system', content: 'always here' });
      expect(chat.messages[1].role).toBe('user');
      expect(chat.messages.length).toBe(1 + 2 * (i + 1) - dropped);
    }
    expect(dropped).toBeGreaterThan(0);
    expect(chat.messages.at(-2)?.content).toMatch(/^question 11 /);
  });

  it('is an error on request, and where the question alone is too long; the conversation is as it was', async () => {
    const strict = session({ whenFull: 'error' });
    await strict.send('x'.repeat(200), LETTERS).finish();
    const before = [...strict.messages];
    expect(() => strict.send('y'.repeat(200), LETTERS)).toThrow(ConfigError);
    expect(strict.messages).toEqual(before);
    const chat = session();
    expect(() => chat.send('x'.repeat(CONTEXT))).toThrow(/"prompt" must be at most 320 tokens/);
    expect(chat.messages).toEqual([]);
  });
});

describe('a saved conversation', () => {
  it('goes on with the same answer and without reading again', async () => {
    const chat = session({ system: 'S' });
    await chat.send('one', LETTERS).finish();
    const bytes = chat.save('0123456789abcdef');
    const copy = session({ cache: 'kv' });
    copy.load(bytes, 'c.xqs', '0123456789abcdef');
    expect(copy.messages).toEqual(chat.messages);
    expect(copy.system).toBe('S');
    const [a, b] = [await chat.send('two', LETTERS).finish(), await copy.send('two', LETTERS).finish()];
    expect(b.ids).toEqual(a.ids);
    expect(b.reusedTokens).toBe(a.reusedTokens);
    expect(b.reusedTokens).toBeGreaterThan(0);
  });

  it('of another model, or none at all, is refused, and the conversation goes on', async () => {
    const chat = session();
    await chat.send('one', LETTERS).finish();
    const before = chat.messages;
    expect(() => chat.load(chat.save('0123456789abcdef'), 'c.xqs', 'fedcba9876543210')).toThrow(FormatError);
    const sequence = new CachedSequence(model.createCache('kv'));
    await sequence.run(model, [1, 2, 3]);
    const text = writeSnapshot({
      ...sequence,
      cache: sequence.cache,
      tokens: sequence.tokens,
      fingerprint: '0123456789abcdef',
    });
    expect(() => chat.load(text, 'c.xqs', '0123456789abcdef')).toThrow(/not a conversation/);
    expect(chat.messages).toEqual(before);
  });
});

describe('options', () => {
  it('another cache is filled by the next answer', async () => {
    const chat = session({ cache: 'kv' });
    await chat.send('one', LETTERS).finish();
    chat.changeCache('xquant:4');
    const { reusedTokens } = await chat.send('two', LETTERS).finish();
    expect(reusedTokens).toBe(0);
    expect(chat.sequence.cache.options.variant).toBe('xquant');
    expect(() => chat.changeCache('zip:4')).toThrow(ConfigError);
    expect(chat.sequence.cache.options.variant).toBe('xquant');
  });

  it('a template is needed', () => {
    expect(() => session({ template: undefined })).toThrow(/"chatTemplate" must be given/);
    expect(() => session({ whenFull: 'panic' })).toThrow(/"whenFull" must be dropOldest or error/);
  });
});
