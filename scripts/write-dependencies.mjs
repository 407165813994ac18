/**
 * Writes docs/dependencies.md: what the package depends on, with the licence that each says it has, and why.
 *
 *     node scripts/write-dependencies.mjs
 *
 * Fails if a direct dependency has no reason below, or a licence is not one of those that MIT can go with.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Why each direct dependency is worth having. */
const REASONS = JSON.parse(readFileSync(new URL('dependency-reasons.json', import.meta.url), 'utf8'));
const LICENCES = ['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'BlueOak-1.0.0'];

const readJson = (path) => JSON.parse(readFileSync(`${root}${path}`, 'utf8'));
const { dependencies } = readJson('package.json');
const { packages } = readJson('package-lock.json');
const direct = Object.keys(dependencies).sort();
const shipped = Object.entries(packages)
  .filter(
    ([path, entry]) => path !== '' && !entry.dev && !entry.optional && !entry.peer && !entry.devOptional,
  )
  .map(([path, entry]) => ({ name: path.replace(/^.*node_modules\//, ''), ...entry }))
  .sort((a, b) => (a.name < b.name ? -1 : 1));

for (const name of direct)
  if (!REASONS[name]) throw new Error(`scripts/dependency-reasons.json lacks ${name}`);
for (const name of Object.keys(REASONS)) {
  if (!direct.includes(name)) throw new Error(`scripts/dependency-reasons.json has ${name}, which is none`);
}
for (const { name, license } of shipped) {
  if (!LICENCES.includes(license)) throw new Error(`${name} has licence "${license}"`);
}

const own = direct.map((name) => {
  const { version, license } = packages[`node_modules/${name}`];
  return `| \`${name}\` | ${version} | ${license} | ${REASONS[name]} |`;
});
const others = shipped
  .filter(({ name }) => !direct.includes(name))
  .map(({ name, version, license }) => `| \`${name}\` | ${version} | ${license} |`);
const page = `# Dependencies

What comes with the package, at the versions of the lock file, and why each is there. Written by
\`node scripts/write-dependencies.mjs\`, which fails for one without a reason or with another licence. \`.ci/run\` asks for
known vulnerabilities where a registry answers that.

| package | version | licence | why |
| --- | --- | --- | --- |
${own.join('\n')}

What these bring along:

| package | version | licence |
| --- | --- | --- |
${others.join('\n')}
`;
writeFileSync(`${root}docs/dependencies.md`, page);
