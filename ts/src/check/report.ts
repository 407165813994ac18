/**
 * Reports of a cross-check: text for people, JSON for programs, JUnit XML for CI.
 *
 * @module
 */

import type { CaseReport } from './check.js';
import type { LargestError, Place, TensorReport } from './compare/compare.js';
import type { Pattern } from './compare/patterns.js';
import type { Diagnosis } from './diagnose.js';
import { OPERATIONS } from './operations/index.js';

/** Counts by verdict. */
export interface CheckSummary {
  readonly cases: number;
  readonly pass: number;
  readonly fail: number;
  readonly inconclusive: number;
  readonly error: number;
}

/** Counts cases by verdict. */
export function summarize(reports: readonly CaseReport[]): CheckSummary {
  const summary = { cases: reports.length, pass: 0, fail: 0, inconclusive: 0, error: 0 };
  for (const { verdict } of reports) summary[verdict]++;
  return summary;
}

/**
 * One case as text. Largest errors are shown also when everything matches.
 *
 * @param verbose with histograms, and elements that differ within their bounds
 * @returns ends with a newline
 */
export function formatCase(report: CaseReport, verbose = false): string {
  const lines = [`${report.verdict.toUpperCase().padEnd(6)} ${report.name}  ${describeCase(report)}`];
  if (report.error !== undefined) lines.push(`  ${report.error}`);
  for (const tensor of report.tensors) {
    if (tensor.verdict === 'missing') continue;
    lines.push(`  ${formatTensor(tensor)}`);
    for (const note of tensor.notes) lines.push(`      note: ${note}`);
    if (tensor.dead)
      lines.push('      note: a dead output: nothing was written, or another buffer was dumped');
    if (tensor.codes) {
      const { differing, nearTies } = tensor.codes;
      lines.push(`      ${differing} codes differ, ${nearTies} of them by one at a near-tie`);
    }
    const show = tensor.failing > 0 || verbose;
    if (show && tensor.ulpHistogram && tensor.differing > 0)
      lines.push(`      ulp  ${formatHistogram(tensor)}`);
    if (show) for (const line of formatMismatches(tensor)) lines.push(`      ${line}`);
    if (tensor.pattern) lines.push(`      pattern: ${patternText(tensor.pattern)}`);
  }
  const missing = missingOutputs(report);
  if (missing.length > 0 && report.tensors.length > missing.length) {
    lines.push(
      `  not compared: ${missing.join(', ')} (not in the file; --strict or --require makes that an error)`,
    );
  }
  for (const line of formatDiagnoses(report)) lines.push(`  ${line}`);
  return `${lines.join('\n')}\n`;
}

/** The last line: how many of what. Ends with a newline. */
export function formatSummary(summary: CheckSummary): string {
  const { cases, pass, fail, inconclusive, error } = summary;
  const parts = [`${cases} ${cases === 1 ? 'case' : 'cases'}`, `${pass} pass`, `${fail} fail`];
  if (inconclusive > 0) parts.push(`${inconclusive} inconclusive`);
  if (error > 0) parts.push(`${error} could not be judged`);
  return `${parts.join(', ')}\n`;
}

/**
 * All cases as JSON. Infinite and NaN numbers are written as strings.
 *
 * @returns ends with a newline
 */
export function formatJson(reports: readonly CaseReport[]): string {
  const value = { version: 1, summary: summarize(reports), cases: reports };
  const plain = (_: string, each: unknown) =>
    typeof each === 'number' && !Number.isFinite(each) ? String(each) : Object.is(each, -0) ? '-0' : each;
  return `${JSON.stringify(value, plain, 2)}\n`;
}

/**
 * All cases as JUnit XML: a suite per case, a test per tensor.
 *
 * @returns ends with a newline
 */
export function formatJunit(reports: readonly CaseReport[]): string {
  const suites = reports.map((report) => {
    const tests = report.tensors.filter(({ verdict }) => verdict !== 'missing');
    const attributes = {
      name: report.name,
      tests: Math.max(1, tests.length),
      failures: tests.filter(({ verdict }) => verdict === 'fail').length,
      errors: report.error === undefined ? 0 : 1,
      skipped: tests.filter(({ verdict }) => verdict === 'inconclusive').length,
      time: report.seconds.toFixed(3),
    };
    const body =
      report.error === undefined
        ? tests.map((tensor) => junitTest(report, tensor))
        : [
            `    <testcase ${xml({ classname: report.name, name: 'case' })}>
      <error ${xml({ message: report.error })}/>
    </testcase>`,
          ];
    return `  <testsuite ${xml(attributes)}>\n${body.join('\n')}\n  </testsuite>`;
  });
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="xquant check">\n${suites.join('\n')}\n</testsuites>\n`;
}

/** Every operation with its options and tensors, as `xquant check --list` prints them. */
export function formatOperations(): string {
  const lines: string[] = [];
  for (const { name, summary, specification, options, tensors } of OPERATIONS) {
    lines.push(`${name}: ${summary}`, `  (${specification})`);
    for (const option of options) {
      lines.push(
        `  option  ${option.name.padEnd(18)} ${option.values}${option.optional ? ', optional' : ''}`,
      );
    }
    for (const { role, name: tensor, dtype, shape, comparison, when } of tensors) {
      const how = comparison ? `  ${comparison}` : '';
      lines.push(
        `  ${role.padEnd(7)} ${tensor.padEnd(18)} ${dtype} ${shape}${how}${when ? `  (${when})` : ''}`,
      );
    }
    lines.push('');
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

function describeCase({ operation, options }: CaseReport): string {
  const shown = Object.entries(options)
    .filter(([, value]) => typeof value !== 'object')
    .map(([name, value]) => `${name}=${String(value)}`);
  return [operation, ...shown].join(' ');
}

function formatTensor(tensor: TensorReport): string {
  const { name, verdict, comparison, dtype, shape, elements, differing, failing } = tensor;
  const head = `${verdict.padEnd(12)} ${name.padEnd(14)} ${dtype} [${shape.join(', ')}]`;
  if (tensor.unusable) return `${head}  wrong ${tensor.unusable}`;
  if (differing === 0 && elements === 0) return `${head}  empty`;
  if (differing === 0) return `${head}  equal`;
  const percent = ((100 * failing) / elements).toPrecision(3);
  const counts =
    comparison === 'exact'
      ? `${failing} of ${elements} differ (${percent} %)`
      : `${differing} of ${elements} differ, ${failing} beyond the ${comparison} (${percent} %)`;
  const errors = [
    errorText('largest absolute', tensor.largestAbsolute),
    errorText('relative', tensor.largestRelative),
    tensor.largestOfAllowed &&
      `${tensor.largestOfAllowed.value.toPrecision(3)} of the ${comparison} at ${placeText(tensor.largestOfAllowed.place)}`,
  ].filter((text) => text);
  return `${head}  ${[counts, ...errors].join('; ')}`;
}

function errorText(name: string, error: LargestError | undefined): string | undefined {
  return error && `${name} ${error.value.toPrecision(3)} at ${placeText(error.place)}`;
}

function placeText(place: Place): string {
  return Object.entries(place)
    .map(([name, at]) => `${name} ${at}`)
    .join(', ');
}

function formatHistogram({ ulpHistogram = [] }: TensorReport): string {
  return ulpHistogram
    .filter(({ count }) => count > 0)
    .map(({ upTo, count }) => `${Number.isFinite(upTo) ? `<=${upTo}` : 'more'}: ${count}`)
    .join('  ');
}

function formatMismatches({ mismatches, failing, differing }: TensorReport): string[] {
  const total = failing > 0 ? failing : differing;
  const lines = mismatches.map(({ place, expected, found, expectedBits, foundBits, allowed }) => {
    const limit = allowed > 0 ? `, allowed ${allowed.toPrecision(3)}` : '';
    return `at ${placeText(place)}: expected ${numberText(expected, expectedBits)}, found ${numberText(found, foundBits)}${limit}`;
  });
  if (total > mismatches.length) lines.push(`and ${total - mismatches.length} more`);
  return lines;
}

function numberText(value: number, bits: string): string {
  return bits.startsWith('0x') ? `${Object.is(value, -0) ? '-0' : value} (${bits})` : bits;
}

/** Outputs that the file does not have. */
function missingOutputs({ tensors }: CaseReport): string[] {
  return tensors.filter(({ verdict }) => verdict === 'missing').map(({ name }) => name);
}

function patternText({ region, differing, elements }: Pattern): string {
  const share = ((100 * differing) / elements).toPrecision(3);
  return `${region}: ${differing} of ${elements} differ there (${share} %), none elsewhere`;
}

function formatDiagnoses({ verdict, diagnosed, diagnoses }: CaseReport): string[] {
  if (verdict !== 'fail' || diagnosed === 'no') return [];
  if (diagnoses.length === 0) {
    return diagnosed === 'stoppedEarly'
      ? ['the search for a known mistake was stopped early; --diagnose-for SECONDS gives it more time']
      : ['no known mistake explains this'];
  }
  const several = diagnoses.length > 1 ? ' (this data cannot tell them apart)' : '';
  return [
    `likely cause${several}:`,
    ...diagnoses.flatMap((diagnosis) => [
      `  ${diagnosisText(diagnosis)}`,
      `    explains ${diagnosis.explains.join(', ')}; see ${diagnosis.specification}`,
    ]),
  ];
}

function diagnosisText({ id, title, detail, tokens }: Diagnosis): string {
  const part = tokens ? ` [tokens ${tokens.from} to ${tokens.to - 1}]` : '';
  return `${id}: ${title}${detail ? `: ${detail}` : ''}${part}`;
}

function junitTest(report: CaseReport, tensor: TensorReport): string {
  const open = `    <testcase ${xml({ classname: report.name, name: tensor.name })}>`;
  if (tensor.verdict === 'fail') {
    const text = [formatTensor(tensor), ...formatMismatches(tensor), ...formatDiagnoses(report)].join('\n');
    const message = tensor.unusable
      ? `wrong ${tensor.unusable}`
      : `${tensor.failing} of ${tensor.elements} elements`;
    const failure = `<failure ${xml({ message })}>${escapeXml(text)}</failure>`;
    return `${open}\n      ${failure}\n    </testcase>`;
  }
  if (tensor.verdict === 'inconclusive') {
    return `${open}\n      <skipped ${xml({ message: tensor.notes.join('; ') })}/>\n    </testcase>`;
  }
  return `${open.slice(0, -1)}/>`;
}

function xml(attributes: Readonly<Record<string, string | number>>): string {
  return Object.entries(attributes)
    .map(([name, value]) => `${name}="${escapeXml(String(value))}"`)
    .join(' ');
}

/** Control characters are not allowed in XML 1.0, not even escaped. */
function escapeXml(text: string): string {
  return [...text]
    .map((character) => {
      const code = character.codePointAt(0) ?? 0;
      if (code < 32 && !'\t\n\r'.includes(character)) return '\ufffd';
      return { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;' }[character] ?? character;
    })
    .join('');
}
