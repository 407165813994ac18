/**
 * C's `strftime`, as Python calls it for a local time without a zone. Names of days and months are English, as in
 * the C locale that Python starts with.
 *
 * @module
 */

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];
const DAY = 86_400_000;

/** Flags and a width, as glibc has them: `%-d`, `%_H`, `%010Y`, `%^a`. */
const DIRECTIVE = /%([-_0^#]*)(\d{0,4})([EO]?)([\s\S])/g;

/** Writes a local time. An unknown directive stays as it is. */
export function strftime(format: string, date: Date): string {
  return format.replace(DIRECTIVE, (whole, flags: string, width: string, _modifier, code: string) => {
    if (!Object.hasOwn(FIELDS, code)) return whole;
    const field = FIELDS[code](date);
    let text = typeof field === 'string' ? field : padded(field, flags, width);
    if (typeof field === 'string' && width !== '' && !flags.includes('-')) {
      text = text.padStart(Number(width), flags.includes('0') ? '0' : ' ');
    }
    if (flags.includes('^')) return text.toUpperCase();
    return flags.includes('#') ? swapped(code, text) : text;
  });
}

/** A number with its usual width and filling. */
type NumberField = readonly [value: number, width: number, fill: '0' | ' '];

function padded([value, usual, fill]: NumberField, flags: string, width: string): string {
  if (flags.includes('-')) return String(value);
  const wanted = flags.includes('_') ? ' ' : flags.includes('0') ? '0' : fill;
  return String(value).padStart(width === '' ? usual : Math.max(Number(width), usual), wanted);
}

function swapped(code: string, text: string): string {
  return code === 'p' || code === 'Z' ? text.toLowerCase() : text.toUpperCase();
}

const two = (value: number): NumberField => [value, 2, '0'];
const blank = (value: number): NumberField => [value, 2, ' '];
const one = (value: number): NumberField => [value, 1, '0'];
const twelve = (date: Date) => date.getHours() % 12 || 12;
const half = (date: Date) => (date.getHours() < 12 ? 'am' : 'pm');
const month = (date: Date) => MONTHS[date.getMonth()];
/** The week of the year, if weeks begin on Sunday (0) or Monday (1) and the first is the first whole one. */
const week = (date: Date, first: 0 | 1) =>
  Math.floor((dayOfYear(date) + 7 - ((date.getDay() + 7 - first) % 7)) / 7);

const FIELDS: Readonly<Record<string, (date: Date) => string | NumberField>> = {
  '%': () => '%',
  A: (date) => DAYS[date.getDay()],
  a: (date) => DAYS[date.getDay()].slice(0, 3),
  B: month,
  b: (date) => month(date).slice(0, 3),
  C: (date) => two(Math.floor(date.getFullYear() / 100)),
  c: (date) => strftime('%a %b %e %H:%M:%S %Y', date),
  D: (date) => strftime('%m/%d/%y', date),
  d: (date) => two(date.getDate()),
  e: (date) => blank(date.getDate()),
  F: (date) => strftime('%Y-%m-%d', date),
  f: (date) => `${String(date.getMilliseconds()).padStart(3, '0')}000`,
  G: (date) => one(isoWeek(date).year),
  g: (date) => two(isoWeek(date).year % 100),
  H: (date) => two(date.getHours()),
  h: (date) => month(date).slice(0, 3),
  I: (date) => two(twelve(date)),
  j: (date) => [dayOfYear(date) + 1, 3, '0'],
  k: (date) => blank(date.getHours()),
  l: (date) => blank(twelve(date)),
  M: (date) => two(date.getMinutes()),
  m: (date) => two(date.getMonth() + 1),
  n: () => '\n',
  P: half,
  p: (date) => half(date).toUpperCase(),
  R: (date) => strftime('%H:%M', date),
  r: (date) => strftime('%I:%M:%S %p', date),
  S: (date) => two(date.getSeconds()),
  s: (date) => String(Math.floor(date.getTime() / 1000)),
  T: (date) => strftime('%H:%M:%S', date),
  t: () => '\t',
  U: (date) => two(week(date, 0)),
  u: (date) => one(date.getDay() || 7),
  V: (date) => two(isoWeek(date).week),
  W: (date) => two(week(date, 1)),
  w: (date) => one(date.getDay()),
  X: (date) => strftime('%H:%M:%S', date),
  x: (date) => strftime('%m/%d/%y', date),
  Y: (date) => one(date.getFullYear()),
  y: (date) => two(date.getFullYear() % 100),
  // A time without a zone has neither name nor distance of one.
  Z: () => '',
  z: () => '',
};

/** Days since 1 January. Days are counted in UTC, where all are equally long. */
function dayOfYear(date: Date): number {
  const year = date.getFullYear();
  return (Date.UTC(year, date.getMonth(), date.getDate()) - Date.UTC(year, 0, 1)) / DAY;
}

/** ISO 8601: weeks begin on Monday and belong to the year of their Thursday. */
function isoWeek(date: Date): { year: number; week: number } {
  const thursday = new Date(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()));
  thursday.setUTCDate(thursday.getUTCDate() + 3 - ((thursday.getUTCDay() + 6) % 7));
  const year = thursday.getUTCFullYear();
  return { year, week: 1 + Math.floor((thursday.getTime() - Date.UTC(year, 0, 1)) / DAY / 7) };
}
