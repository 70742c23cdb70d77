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

/** `0.873`, or a dash. */
export function decimal(value: number | null | undefined, digits = 3): string {
  return value === null || value === undefined || Number.isNaN(value) ? '–' : value.toFixed(digits);
}
