/**
 * Errors inside a template, before `chat-template.ts` turns them into an error of this package.
 *
 * @module
 */

/** Python's and jinja2's names of errors, and one of our own for a budget that is used up. */
export type TemplateErrorKind =
  | 'TemplateSyntaxError'
  | 'TemplateError'
  | 'TemplateRuntimeError'
  | 'UndefinedError'
  | 'SecurityError'
  | 'TypeError'
  | 'ValueError'
  | 'KeyError'
  | 'IndexError'
  | 'ZeroDivisionError'
  | 'OverflowError'
  | 'BudgetError'
  /** Right for jinja2, but not written here. */
  | 'NotSupported';

/** An error at a line of the template. */
export class TemplateError extends Error {
  /** From 1; unknown until the interpreter or parser fills it in. */
  line: number | undefined;

  constructor(
    readonly kind: TemplateErrorKind,
    message: string,
    line?: number,
  ) {
    super(message);
    this.line = line;
  }
}

/** Python's `TypeError`, by far the most frequent. */
export function typeError(message: string): TemplateError {
  return new TemplateError('TypeError', message);
}
