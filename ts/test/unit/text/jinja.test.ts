import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ChatTemplateError } from '../../../src/errors.js';
import { type RenderChatOptions, renderChat, type TemplateMessage } from '../../../src/text/chat-template.js';

interface Generated {
  readonly now: string;
  /** What `strftime` makes of codes, by time. */
  readonly dates: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly conversations: readonly (Record<string, unknown> & { messages: readonly TemplateMessage[] })[];
  readonly cases: readonly { template: string; conversation: number; want?: string; raises?: string }[];
}

/** Made by jinja2, see make.py beside it. */
const generated: Generated = JSON.parse(
  readFileSync(new URL('../../fixtures/templates/generated.json', import.meta.url), 'utf8'),
);

/** Templates by hand, each a kind that once went wrong; right texts and errors are those of transformers 5.24. */
const cases: readonly {
  template: string;
  messages: readonly TemplateMessage[];
  options?: RenderChatOptions;
  want?: string;
  raises?: string;
}[] = JSON.parse(readFileSync(new URL('../../fixtures/templates/cases.json', import.meta.url), 'utf8'));

const HI: readonly TemplateMessage[] = [{ role: 'user', content: 'Hi' }];

/** What a template gives for one message, or the name of the error. */
function rendered(template: string, variables: Record<string, unknown> = {}): string {
  try {
    return renderChat(template, HI, { variables, now: new Date('2024-02-29T07:05:09') });
  } catch (error) {
    if (!(error instanceof ChatTemplateError)) throw error;
    return error.reason.split(':')[0];
  }
}

describe('generated templates', () => {
  it('are rendered as jinja2 renders them', () => {
    expect(generated.cases.length).toBeGreaterThanOrEqual(500);
    for (const { template, conversation, want, raises } of generated.cases) {
      const { messages, ...variables } = generated.conversations[conversation];
      const options = { bosToken: '<s>', now: new Date(generated.now), variables };
      if (raises === undefined) expect(renderChat(template, messages, options), template).toBe(want);
      else expect(() => renderChat(template, messages, options), template).toThrow(ChatTemplateError);
    }
  });
});

describe('strftime_now', () => {
  it.each(Object.entries(generated.dates))('writes %s as Python does, with every code', (now, texts) => {
    for (const [code, text] of Object.entries(texts)) {
      const variables = { code };
      expect(renderChat('{{ strftime_now(code) }}|', HI, { now: new Date(now), variables }), code).toBe(
        `${text}|`,
      );
    }
  });
});

describe('the language', () => {
  it.each(cases)('$template', ({ template, messages, options, want, raises }) => {
    if (raises === undefined) expect(renderChat(template, messages, options)).toBe(want);
    else expect(() => renderChat(template, messages, options)).toThrow(new RegExp(`: ${raises}: `));
  });

  // Expected texts are those of jinja2 3.1.6 with the settings of transformers.
  it.each([
    [
      '{{ 1e16 }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1 / 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** -1 }}',
      '1e+16 1.0 0.30000000000000004 0.3333333333333333 -4 2 0.5',
    ],
    [
      "{{ (1,) }}{{ () }}{{ {1: (2, none)} }}{{ \"it's\" }}{{ ['it\\'s', '\\n\\u200b'] }}",
      "(1,)(){1: (2, None)}it's[\"it's\", '\\n\\u200b']",
    ],
    ["{{ '🦙a'|length }}{{ '🦙a'[1] }}{{ '🦙a'[::-1] }}{{ '🦙a'.find('a') }}", '2aa🦙1'],
    ['{% for a in [1, 2] recursive %}{{ a }}{{ loop([3]) if loop.depth == 1 }}{% endfor %}', '1323'],
    ['{% macro f(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call f(1) %}c{% endcall %}', '[1c]'],
    ['{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}', '1'],
    ['a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc\r\n', 'a\nb\nc'],
    ['{% generation %}x{% endgeneration %}', 'x'],
    ["{{ strftime_now('%A %-d %b %Y %H:%M %j %U %V %p') }}", 'Thursday 29 Feb 2024 07:05 060 08 09 AM'],
    ["{{ ''.__class__.mro() }}", 'SecurityError'],
    ['{{ messages.append(1) }}', 'SecurityError'],
    ["{{ ''.constructor }}|{{ messages.length }}|{{ toString }}", '||'],
    ['{{ nothing.more }}', 'UndefinedError'],
    ["{{ raise_exception('no') }}", 'TemplateError'],
    ['{% include "x" %}', 'NotSupported'],
    ['{{ 1|martian }}', 'TemplateRuntimeError'],
    ['{% for x in y %}', 'TemplateSyntaxError'],
  ])('%s', (template, want) => {
    expect(rendered(template)).toBe(want);
  });

  it('takes the elements of a list and the keys of an object as they are', () => {
    const variables = { x: { items: [1.5, null, true, { b: 'c' }], skipped: undefined } };
    expect(rendered("{{ x['items'] }}{{ x }}", variables)).toBe(
      "[1.5, None, True, {'b': 'c'}]{'items': [1.5, None, True, {'b': 'c'}]}",
    );
  });
});

describe('a template that would not end, or take all memory', () => {
  const double =
    "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
  it.each([
    ['a long range', '{% for i in range(1000000000) %}{% endfor %}'],
    ['a range without end', '{{ range(1/0)|list }}'],
    ['nested loops', '{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}'],
    [
      'a list that doubles',
      '{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}',
    ],
    ['a repeated list', '{{ ([0] * 1000000000)|length }}'],
    ['a text that doubles', double],
    ['a text that is repeated', "{{ 'a' * 2000000000 }}"],
    ['a text that is replaced', `${double.replace('40', '10')}{{ ns.s|replace('a', ns.s) }}`],
    ['a join', `${double.replace('40', '16')}{{ ([ns.s] * 100)|join(ns.s) }}`],
    ['a huge output', `${double.replace('40', '20')}{% for i in range(30) %}{{ ns.s }}{% endfor %}`],
    ['indentation', "{{ 'x\\ny'|indent(2000000000) }}"],
    ['indented JSON', '{{ messages|tojson(indent=1000000000) }}'],
    ['padding', "{{ 'a'.center(2000000000) }}"],
    ['a wide format', "{{ '%1000000000d' % 1 }}"],
    ['another wide format', "{{ '{:>1000000000}'.format(1) }}"],
    ['tabs', "{{ '\\t'.expandtabs(2000000000) }}"],
    ['a macro that calls itself', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}'],
    ['a loop that calls itself', '{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}'],
    ['parentheses', `{{ ${'('.repeat(100000)} }}`],
    ['blocks', '{% if true %}'.repeat(10000)],
    ['signs', `{{ ${'-'.repeat(100000)}1 }}`],
    ['a long sum', `{{ 1${' + 1'.repeat(100000)} }}`],
    ['filters', `{{ 1${'|string'.repeat(50000)} }}`],
    [
      'a list in lists',
      '{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}',
    ],
  ])('%s ends with an error of ours, soon', (_, template) => {
    const started = performance.now();
    let outcome: unknown;
    try {
      outcome = renderChat(template, HI);
    } catch (error) {
      outcome = error;
    }
    expect(outcome).toBeInstanceOf(ChatTemplateError);
    expect((outcome as ChatTemplateError).fault).toBe('template');
    expect(performance.now() - started).toBeLessThan(5000);
  });

  it('does not run at all once its signal has fired', () => {
    const signal = AbortSignal.abort(new Error('enough'));
    expect(() => renderChat('{{ 1 }}', HI, { signal })).toThrow('enough');
  });
});

describe('who is at fault', () => {
  const fault = (template: string, messages: readonly TemplateMessage[]) => {
    try {
      renderChat(template, messages);
    } catch (error) {
      if (error instanceof ChatTemplateError)
        return { fault: error.fault, option: error.option, line: error.line };
    }
    return undefined;
  };

  it('the messages, if the template refuses them or renders others', () => {
    const picky = "\n{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}";
    expect(fault(picky, [...HI, ...HI])).toEqual({ fault: 'messages', option: 'messages', line: 2 });
    const sum = "{{ 'x' + messages[0].content }}";
    expect(fault(sum, [{ role: 'user', content: null }])).toMatchObject({ fault: 'messages' });
    expect(fault('{{ messages }}', [{ role: 'user', content: 'a', run: () => 1 }])).toMatchObject({
      fault: 'messages',
    });
  });

  it('the template, if it renders no conversation', () => {
    expect(fault('\n\n{{ 1 + }}', HI)).toEqual({ fault: 'template', option: 'chatTemplate', line: 3 });
    expect(fault("{{ 'x' + 1 }}", HI)).toMatchObject({ fault: 'template', line: 1 });
  });

  it('whoever gives messages that are none', () => {
    expect(() => renderChat('x', ['Hi'] as never)).toThrow(
      /"messages" must be a list of objects with a role/,
    );
    expect(() => renderChat('x', 'Hi' as never)).toThrow(/"messages" must be a list of messages/);
    expect(() => renderChat(7 as never, HI)).toThrow(/"chatTemplate" must be a Jinja template/);
  });
});
