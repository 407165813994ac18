/**
 * Tokens that end an answer or mark its parts, known by their names, as llama.cpp knows them: many files name only one
 * end, and give others the type of plain text.
 *
 * @module
 */

/** End an answer or a turn of it. */
const END_NAMES: ReadonlySet<string> = new Set([
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<|flush|>',
  '<|calls|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '</s>',
  '<|eom_id|>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '[EOS]',
  '<|end_of_text|>',
  '<end_of_utterance>',
  '<eos>',
  '<turn|>',
  '<|tool_response>',
  '<｜end▁of▁sentence｜>',
  '[e~[',
]);

/** Parts of a text whose middle is to be filled in. The first three kinds end what is filled in. */
const FILL_NAMES: Readonly<Record<string, readonly string[]>> = {
  pad: ['<|fim_pad|>', '<fim-pad>', '<fim_pad>', '<PAD>', '[PAD]'],
  repository: ['<|fim_repo|>', '<|repo_name|>', '<fim-repo>', '<REPO>', '<reponame>'],
  separator: ['<|file_sep|>'],
  prefix: ['<|fim_prefix|>', '<fim-prefix>', '<fim_prefix>', '<｜fim▁begin｜>', '<PRE>', '▁<PRE>'],
  suffix: ['<|fim_suffix|>', '<fim-suffix>', '<fim_suffix>', '<｜fim▁hole｜>', '<SUF>', '▁<SUF>'],
  middle: ['<|fim_middle|>', '<fim-middle>', '<fim_middle>', '<｜fim▁end｜>', '<MID>', '▁<MID>'],
};
const ENDING_FILLS: readonly string[] = ['pad', 'repository', 'separator'];

const CONTROL_NAMES: ReadonlySet<string> = new Set([...END_NAMES, ...Object.values(FILL_NAMES).flat()]);

/** Whether a token of this name steers the model, whatever type a file gives it. */
export function isControlName(token: string): boolean {
  return CONTROL_NAMES.has(token);
}

/**
 * Ids of all tokens that end an answer by their names.
 *
 * @param tokens by id
 */
export function endsByName(tokens: readonly (string | undefined)[]): number[] {
  const ends: number[] = [];
  /** The kinds of fill-in tokens found so far: one of each kind counts, the first. */
  const kinds = new Set<string>();
  for (const [id, token] of tokens.entries()) {
    if (token === undefined || !CONTROL_NAMES.has(token)) continue;
    const kind = ENDING_FILLS.find((each) => FILL_NAMES[each].includes(token));
    if (END_NAMES.has(token) || (kind !== undefined && !kinds.has(kind))) ends.push(id);
    if (kind !== undefined) kinds.add(kind);
  }
  // In these two formats "<|end|>" ends a part of an answer, and others end the whole.
  const has = (name: string) => tokens.includes(name);
  const isPartial = (has('<|return|>') && has('<|call|>')) || (has('<|calls|>') && has('<|flush|>'));
  return isPartial ? ends.filter((id) => tokens[id] !== '<|end|>') : ends;
}
