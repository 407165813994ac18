/**
 * Limits that keep the sources readable: lines of a file, lines of a function of the engine, and no export that nobody
 * needs.
 *
 * @module
 */

import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

const root = new URL('../../../', import.meta.url).pathname;

const MOST_FILE_LINES = 450;
/** Files that may be longer, and why. */
const LONGER_FILES: Readonly<Record<string, string>> = {};

const MOST_ENGINE_FUNCTION_LINES = 60;
/** Functions of the engine that may be longer, and why. */
const LONGER_FUNCTIONS: Readonly<Record<string, string>> = {
  'ts/src/engine/stages.ts createRunner': 'threads get it as text, so it can use nothing outside itself',
};

/** What users import: everything that these files export is wanted. */
const DOORS = [
  ...readFileSync(join(root, 'package.json'), 'utf8').matchAll(/"\.\/dist\/([\w/-]+)\.d\.ts"/g),
].map(([, name]) => `ts/src/${name}.ts`);

/** Exports that only the built package is asked for, and by whom. */
const ASKED_OF_BUILD: Readonly<Record<string, string>> = {
  'ts/src/cli/window-threads.ts WindowThread':
    'ts/test/unit/cli/reproduce.test.ts, since a thread runs a built file',
};

const FOLDERS = ['ts/src', 'ts/test', 'ts/bench', 'scripts', 'docs/explorer'];

const sources = new Map(
  FOLDERS.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(ts|mjs)$/.test(name) && !name.includes('node_modules'))
      .map((name) => {
        const path = posix.join(folder, name);
        const text = readFileSync(join(root, path), 'utf8');
        return [path, ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)] as const;
      }),
  ),
);
const product = [...sources.keys()].filter((path) => path.startsWith('ts/src/'));

function linesOf(file: ts.SourceFile, node: ts.Node): number {
  const at = (position: number) => file.getLineAndCharacterOfPosition(position).line;
  return at(node.end) - at(node.getStart(file)) + 1;
}

/** Calls `visit` with a node and all nodes in it. */
function walk(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => walk(child, visit));
}

/** The file of ts/src that an import names, be it by its source or by what is built from it. */
function importedFile(from: string, specifier: string): string | undefined {
  const built = /(?:^|\/)(?:dist|build\/\w+\/src)\/(.*)$/.exec(specifier)?.[1];
  if (!built && !specifier.startsWith('.')) return undefined;
  const path = built ? posix.join('ts/src', built) : posix.join(posix.dirname(from), specifier);
  return path.replace(/\.js$/, '.ts');
}

/** Names that are imported, by file; `*` stands for all of them. */
function importedNames(): Map<string, Set<string>> {
  const names = new Map<string, Set<string>>();
  for (const [path, file] of sources) {
    const note = (specifier: ts.Node, ...imported: string[]): void => {
      const text = ts.isStringLiteralLike(specifier) ? specifier.text : specifier.getText(file);
      const target = importedFile(path, text.replace(/'[^']*$/, ''));
      if (target) names.set(target, new Set([...(names.get(target) ?? []), ...imported]));
    };
    walk(file, (node) => {
      if (ts.isImportDeclaration(node)) {
        const bindings = node.importClause?.namedBindings;
        if (bindings) note(node.moduleSpecifier, ...boundNames(bindings));
      } else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
        note(node.moduleSpecifier, ...(node.exportClause ? boundNames(node.exportClause) : ['*']));
      } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
        note(node.arguments[0], '*');
      } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
        note(node.argument.literal, node.qualifier?.getText(file) ?? '*');
      }
    });
  }
  return names;
}

function boundNames(bindings: ts.NamedImportBindings | ts.NamedExportBindings): string[] {
  if (!('elements' in bindings)) return ['*'];
  return bindings.elements.map((element) => (element.propertyName ?? element.name).text);
}

/** Exported declarations of a file with the names that they declare. */
function exportedDeclarations(file: ts.SourceFile): { node: ts.Node; name: string; isType: boolean }[] {
  return file.statements.flatMap((node) => {
    const modifiers = ts.canHaveModifiers(node) ? ts.getModifiers(node) : undefined;
    if (!modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) return [];
    if (ts.isVariableStatement(node)) {
      const { declarations } = node.declarationList;
      return declarations.map((each) => ({ node, name: each.name.getText(file), isType: false }));
    }
    const { name } = node as ts.DeclarationStatement;
    const isType = ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node);
    return name ? [{ node, name: name.getText(file), isType }] : [];
  });
}

/** Whether other statements of the file than a declaration use its name. */
function isUsedBeside(file: ts.SourceFile, declaration: ts.Node, name: string): boolean {
  let used = false;
  for (const statement of file.statements) {
    if (statement === declaration) continue;
    walk(statement, (node) => {
      if (ts.isIdentifier(node) && node.text === name) used = true;
    });
  }
  return used;
}

describe('sources', () => {
  it('are files of at most 450 lines', () => {
    const long = product.filter(
      (path) => (sources.get(path)?.getLineStarts().length ?? 0) - 1 > MOST_FILE_LINES,
    );
    expect(long.filter((path) => !(path in LONGER_FILES))).toEqual([]);
  });

  it('have functions of at most 60 lines in the engine', () => {
    const long: string[] = [];
    for (const path of product.filter((each) => each.startsWith('ts/src/engine/'))) {
      const file = sources.get(path) as ts.SourceFile;
      walk(file, (node) => {
        if (!ts.isFunctionLike(node) || linesOf(file, node) <= MOST_ENGINE_FUNCTION_LINES) return;
        long.push(`${path} ${node.name?.getText(file) ?? ts.SyntaxKind[node.kind]}`);
      });
    }
    expect(long.filter((name) => !(name in LONGER_FUNCTIONS))).toEqual([]);
  });

  it('export nothing that nobody needs', () => {
    const imported = importedNames();
    const unused: string[] = [];
    for (const path of product.filter((each) => !DOORS.includes(each))) {
      const file = sources.get(path) as ts.SourceFile;
      const names = imported.get(path);
      for (const { node, name, isType } of exportedDeclarations(file)) {
        if (names?.has(name) || names?.has('*')) continue;
        // A type may be exported because something that is exported takes or returns it.
        if (isType && isUsedBeside(file, node, name)) continue;
        unused.push(`${path} ${name}`);
      }
    }
    expect(unused.filter((name) => !(name in ASKED_OF_BUILD))).toEqual([]);
  });
});
