/**
 * Writes docs/cli.md from the help of the commands themselves. `--check` writes nothing and fails if the
 * file is not what it should be. Needs a build.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { PassThrough } from 'node:stream';

const FILE = new URL('../docs/cli.md', import.meta.url);
const PROGRAM = new URL('../dist/cli/program.js', import.meta.url);

if (!existsSync(PROGRAM)) fail('there is no dist/: run "npm run build" first');
const { createProgram } = await import(PROGRAM);
const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
const program = createProgram({ stdin, stdout, stderr, signal: new AbortController().signal });

/** The help text of a command, with what `addHelpText` puts behind it. */
function helpOf(command) {
  let text = '';
  command.configureOutput({
    ...program.configureOutput(),
    writeOut: (part) => {
      text += part;
    },
  });
  command.outputHelp();
  return text.trimEnd();
}

const sections = program.commands.map(
  (command) => `## xquant ${command.name()}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`,
);
const page = `# Command line

This page is what the commands say about themselves (\`node scripts/write-cli-docs.mjs\`).

\`\`\`text
${helpOf(program)}
\`\`\`

Results go to stdout, everything else to stderr. Progress bars appear on a terminal only, for what takes longer
than a second. Every command has \`--json\`: one object a line. Files are written under another name first and
then renamed, so that there is never half of one.

| exit code | meaning                                                                                     |
| --------- | ------------------------------------------------------------------------------------------- |
| 0         | ok                                                                                          |
| 1         | failed: a file, a model or the disk; or a check that did not pass                           |
| 2         | usage: an unknown option, a value outside its range, a cache that the model cannot have     |
| 130       | interrupted with Ctrl-C                                                                     |

${sections.join('\n')}`;

if (process.argv.includes('--check')) {
  const written = existsSync(FILE) ? readFileSync(FILE, 'utf8') : '';
  if (written !== page)
    fail('docs/cli.md is not what the commands say: run "node scripts/write-cli-docs.mjs"');
} else {
  writeFileSync(FILE, page);
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
