/**
 * The version of the package.
 *
 * @module
 */

import { readFileSync } from 'node:fs';

/** From package.json. */
export function packageVersion(): string {
  // Both ts/src/cli and dist/cli have package.json some folders above.
  for (const up of ['../..', '../../..']) {
    try {
      const { name, version } = JSON.parse(
        readFileSync(new URL(`${up}/package.json`, import.meta.url), 'utf8'),
      );
      if (name === 'xquant') return version;
    } catch {
      // Not in this folder.
    }
  }
  return 'unknown';
}
