/**
 * SentencePiece BPE vocabularies store a score per token instead of merges. The better the score, the earlier
 * the token is formed, so the merges follow from the scores.
 *
 * @module
 */

// SentencePiece itself stops at 16 by default. Without a limit a hostile token of a megabyte would take hours.
const MAX_TOKEN_LENGTH = 256;

/**
 * Every way to make a token from two others, best score first. The order among equal scores is that of
 * transformers' `generate_merges`: longer left part, then longer right part, then by ids.
 *
 * @param tokens by id
 * @param scores by id
 * @param mergeable says whether the token of an id may be formed or be a part
 * @returns pairs, in order of priority
 */
export function mergesFromScores(
  tokens: readonly string[],
  scores: ArrayLike<number>,
  mergeable: (id: number) => boolean,
): [string, string][] {
  const idOf = new Map<string, number>();
  for (const [id, token] of tokens.entries()) if (mergeable(id)) idOf.set(token, id);

  const merges: { left: number; right: number; score: number; leftLength: number; rightLength: number }[] =
    [];
  for (const [token, id] of idOf) {
    const characters = Array.from(token); // by code point: a surrogate pair is one character
    if (characters.length > MAX_TOKEN_LENGTH) continue;
    const ways: typeof merges = [];
    let at = 0;
    for (let length = 1; length < characters.length; length++) {
      at += characters[length - 1].length;
      const left = idOf.get(token.slice(0, at));
      const right = left === undefined ? undefined : idOf.get(token.slice(at));
      if (left === undefined || right === undefined) continue;
      const rightLength = characters.length - length;
      ways.push({ left, right, score: scores[id], leftLength: length, rightLength });
    }
    ways.sort((a, b) => a.left - b.left || a.right - b.right);
    merges.push(...ways);
  }
  // The sort is stable, so what is equal in all three stays in the order of ids.
  merges.sort((a, b) => b.score - a.score || b.leftLength - a.leftLength || b.rightLength - a.rightLength);
  return merges.map(({ left, right }) => [tokens[left], tokens[right]]);
}
