/**
 * Builds docs/site: guides and API by TypeDoc (`typedoc.config.mjs`), and the explorer. Then every page is read, and a
 * link that leads nowhere, or anything that a page would ask another host for, fails the build.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const site = resolve(process.argv[2] ?? join(root, 'docs/site'));

/** Runs a tool of this project and stops the build if it fails. */
function run(script, args = []) {
  const { status, error } = spawnSync(process.execPath, [join(root, script), ...args], {
    cwd: root,
    stdio: 'inherit',
  });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

/** What is wrong with the pages of a folder. */
function problemsOf(folder) {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name));
  const pages = new Map(
    files.filter((file) => file.endsWith('.html')).map((file) => [file, readFileSync(file, 'utf8')]),
  );
  const anchors = new Map(
    [...pages].map(([file, html]) => [
      file,
      new Set([...html.matchAll(/\sid="([^"]+)"/g)].map(([, id]) => id)),
    ]),
  );
  const problems = [];
  for (const [file, html] of pages) {
    const complain = (what) => problems.push(`${relative(folder, file)}: ${what}`);
    for (const [tag, name, attributes] of html.matchAll(/<(\w+)((?:\s[^<>]*)?)>/g)) {
      for (const [, attribute, target] of attributes.matchAll(/\s(href|src)="([^"]*)"/g)) {
        if (/^(data|blob|mailto|javascript):/.test(target)) continue;
        if (/^([a-z]+:)?\/\//.test(target)) {
          // A link may lead away; a page may not load anything from elsewhere.
          if (name !== 'a') complain(`asks another host: ${tag}`);
          continue;
        }
        const [path, anchor] = target.split('#').map(decodeURIComponent);
        const there = path === '' ? file : join(dirname(file), path.replace(/\?.*$/, ''));
        if (!existsSync(there)) complain(`${attribute}="${target}" leads nowhere`);
        else if (name === 'a' && anchor && anchors.has(there) && !anchors.get(there).has(anchor)) {
          complain(`${attribute}="${target}": the page has no such place`);
        }
      }
    }
  }
  for (const file of files.filter((name) => name.endsWith('.css'))) {
    const [, url] =
      /(?:url\(|@import)\s*["']?((?:https?:)?\/\/[^"')]*)/.exec(readFileSync(file, 'utf8')) ?? [];
    if (url) problems.push(`${relative(folder, file)}: asks another host: ${url}`);
  }
  return problems;
}

rmSync(site, { recursive: true, force: true });
run('node_modules/typedoc/bin/typedoc', ['--out', site]);
const [palette, style] = [join(root, 'docs/theme/palette.css'), join(site, 'assets/custom.css')];
writeFileSync(style, `${readFileSync(palette, 'utf8')}\n${readFileSync(style, 'utf8')}`);
run('scripts/build-explorer.mjs', [site]);
const problems = problemsOf(site);
for (const problem of problems) console.error(problem);
if (problems.length > 0) {
  console.error(`${problems.length} broken links or requests`);
  process.exit(1);
}
console.log(`site: ${join(relative(process.cwd(), site), 'index.html')}`);
