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
    const field = fieldOf(code, date);
    if (field === undefined) return whole;
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

function fieldOf(code: string, date: Date): string | NumberField | undefined {
  const two = (value: number): NumberField => [value, 2, '0'];
  const blank = (value: number): NumberField => [value, 2, ' '];
  const year = date.getFullYear();
  const hour = date.getHours();
  const weekday = date.getDay();
  const twelve = hour % 12 || 12;
  const day = dayOfYear(date);
  const iso = isoWeek(date);
  const nested = (format: string) => strftime(format, date);
  switch (code) {
    case '%':
      return '%';
    case 'A':
      return DAYS[weekday];
    case 'a':
      return DAYS[weekday].slice(0, 3);
    case 'B':
      return MONTHS[date.getMonth()];
    case 'b':
    case 'h':
      return MONTHS[date.getMonth()].slice(0, 3);
    case 'C':
      return two(Math.floor(year / 100));
    case 'c':
      return nested('%a %b %e %H:%M:%S %Y');
    case 'D':
    case 'x':
      return nested('%m/%d/%y');
    case 'd':
      return two(date.getDate());
    case 'e':
      return blank(date.getDate());
    case 'F':
      return nested('%Y-%m-%d');
    case 'f':
      return `${String(date.getMilliseconds()).padStart(3, '0')}000`;
    case 'G':
      return [iso.year, 1, '0'];
    case 'g':
      return two(iso.year % 100);
    case 'H':
      return two(hour);
    case 'I':
      return two(twelve);
    case 'j':
      return [day + 1, 3, '0'];
    case 'k':
      return blank(hour);
    case 'l':
      return blank(twelve);
    case 'M':
      return two(date.getMinutes());
    case 'm':
      return two(date.getMonth() + 1);
    case 'n':
      return '\n';
    case 'P':
      return hour < 12 ? 'am' : 'pm';
    case 'p':
      return hour < 12 ? 'AM' : 'PM';
    case 'R':
      return nested('%H:%M');
    case 'r':
      return nested('%I:%M:%S %p');
    case 'S':
      return two(date.getSeconds());
    case 's':
      return String(Math.floor(date.getTime() / 1000));
    case 'T':
    case 'X':
      return nested('%H:%M:%S');
    case 't':
      return '\t';
    case 'U':
      return two(Math.floor((day + 7 - weekday) / 7));
    case 'u':
      return [weekday || 7, 1, '0'];
    case 'V':
      return two(iso.week);
    case 'W':
      return two(Math.floor((day + 7 - ((weekday + 6) % 7)) / 7));
    case 'w':
      return [weekday, 1, '0'];
    case 'Y':
      return [year, 1, '0'];
    case 'y':
      return two(year % 100);
    case 'Z': // a time without a zone has no name of one
    case 'z':
      return '';
  }
  return undefined;
}

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
