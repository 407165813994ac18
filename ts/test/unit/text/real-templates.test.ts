/**
 * Chat templates of real models, eleven conversations each: the texts of transformers (fixtures/templates/real.py).
 */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ChatTemplateError } from '../../../src/errors.js';
import { renderChat, type TemplateMessage } from '../../../src/text/chat-template.js';

interface Conversation {
  readonly messages: readonly TemplateMessage[];
  readonly add_generation_prompt?: boolean;
  readonly [variable: string]: unknown;
}

interface Real {
  readonly now: string;
  readonly variables: Readonly<Record<string, string>>;
  readonly conversations: Readonly<Record<string, Conversation>>;
  readonly templates: Readonly<
    Record<
      string,
      {
        readonly template: string;
        readonly outcomes: Readonly<Record<string, { readonly want?: string; readonly raises?: string }>>;
      }
    >
  >;
}

const path =
  process.env.XQUANT_REAL_TEMPLATES ?? new URL('../../fixtures/templates/real.json', import.meta.url);
const { now, variables, conversations, templates }: Real = JSON.parse(readFileSync(path, 'utf8'));

describe.each(Object.entries(templates))('%s', (_, { template, outcomes }) => {
  it.each(Object.entries(conversations))('%s', (name, conversation) => {
    const { messages, add_generation_prompt: addGenerationPrompt, ...more } = conversation;
    const render = () =>
      renderChat(template, messages, {
        addGenerationPrompt,
        variables: { ...variables, ...more },
        now: new Date(now),
      });
    const { want } = outcomes[name];
    if (want === undefined) expect(render).toThrow(ChatTemplateError);
    else expect(render()).toBe(want);
  });
});

it('there are eight templates or more, with eleven conversations', () => {
  expect(Object.keys(templates).length).toBeGreaterThanOrEqual(8);
  expect(Object.keys(conversations)).toHaveLength(11);
});
