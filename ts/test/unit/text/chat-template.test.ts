import { describe, expect, it } from 'vitest';
import { ConfigError } from '../../../src/errors.js';
import { renderChat } from '../../../src/text/chat-template.js';

const CHATML =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const STRICT =
  "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}[{{ message['content'] | trim }}]{{ eos_token }}{% endfor %}{{ extra }}";

describe('renderChat', () => {
  const messages = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Who are you?' },
  ];

  it('renders ChatML with and without the prompt for an answer', () => {
    const turns = '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n';
    expect(renderChat(CHATML, messages)).toBe(`${turns}<|im_start|>assistant\n`);
    expect(renderChat(CHATML, messages, { addGenerationPrompt: false })).toBe(turns);
  });

  it('gives the template its tokens and variables', () => {
    const text = renderChat(STRICT, [{ role: 'user', content: ' hi ' }], {
      bosToken: '<s>',
      eosToken: '</s>',
      variables: { extra: '!' },
    });
    expect(text).toBe('<s>[hi]</s>!');
  });

  it('passes on what the template refuses', () => {
    expect(() => renderChat(STRICT, [messages[1], messages[1]])).toThrow(ConfigError);
    expect(() => renderChat(STRICT, [messages[1], messages[1]])).toThrow(/roles must alternate/);
  });

  it('says to pass a template if the model has none', () => {
    expect(() => renderChat(undefined, messages)).toThrow(/pass a Jinja template/);
  });

  it('refuses a broken template and an empty conversation', () => {
    expect(() => renderChat('{% for %}', messages)).toThrow(ConfigError);
    expect(() => renderChat(CHATML, [])).toThrow(ConfigError);
  });
});
