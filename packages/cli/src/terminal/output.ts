/** Prints JSON for programs, or text for people. */
export async function print(json: unknown, value: unknown, text: () => string | Promise<string>): Promise<void> {
  process.stdout.write(json === true ? `${JSON.stringify(value)}\n` : `${await text()}\n`);
}

export interface Column<T> {
  readonly title: string;
  readonly value: (row: T) => string | number | null | undefined;
  readonly align?: 'left' | 'right';
}

/** Rows under their titles; a dash for what is not there. Plain characters where the output is not a terminal. */
export async function table<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  none = 'There is nothing to show.',
): Promise<string> {
  if (rows.length === 0) return none;
  const { default: Table } = await import('cli-table3');
  const drawn = new Table({
    head: columns.map((column) => column.title),
    colAligns: columns.map((column) => column.align ?? 'left'),
    style: { head: [], border: [], compact: true },
    ...(process.stdout.isTTY ? {} : { chars: PLAIN }),
  });
  for (const row of rows) drawn.push(columns.map((column) => String(column.value(row) ?? '–')));
  return drawn.toString();
}

const PLAIN = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: ' ',
};

/** Fields under each other; nested values as JSON, nothing for what is null. */
export function fields(value: Readonly<Record<string, unknown>>): string {
  const shown = Object.entries(value).filter(([, inner]) => inner !== null && inner !== undefined && inner !== '');
  const width = Math.max(0, ...shown.map(([name]) => name.length));
  return shown
    .map(
      ([name, inner]) => `${name.padEnd(width)}  ${typeof inner === 'object' ? JSON.stringify(inner) : String(inner)}`,
    )
    .join('\n');
}

/** A cell: nothing for what is not there. */
export function text(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}

/** `2026-01-31 12:00:05` in UTC, as all times here. */
export function timeText(value: unknown): string | null {
  return typeof value === 'string' ? value.slice(0, 19).replace('T', ' ') : null;
}

/** `a=1 b=2` */
export function pairsText(value: unknown): string | null {
  if (typeof value !== 'object' || value === null) return null;
  return Object.entries(value)
    .map(([name, inner]) => `${name}=${String(inner)}`)
    .join(' ');
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** `1.2 MB`: thousands, as disks and networks are measured. */
export function bytesText(value: unknown): string | null {
  if (typeof value !== 'number') return null;
  const power = value < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(value) / 3));
  return `${power === 0 ? value : (value / 1000 ** power).toFixed(1)} ${UNITS[power]}`;
}

/** `12.5 %` */
export function percentText(value: unknown): string | null {
  return typeof value === 'number' ? `${Math.round(value * 100) / 100} %` : null;
}

/** `0.873`, or a dash. */
export function decimal(value: number | null | undefined, digits = 3): string {
  return value === null || value === undefined || Number.isNaN(value) ? '–' : value.toFixed(digits);
}
