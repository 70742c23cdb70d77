import { plain } from './plain.js';

/** Prints JSON for programs, or text for people. */
export async function print(json: unknown, value: unknown, text: () => string | Promise<string>): Promise<void> {
  process.stdout.write(json === true ? `${JSON.stringify(value)}\n` : `${plain(await text())}\n`);
}

export interface Column<T> {
  readonly title: string;
  readonly value: (row: T) => string | number | null | undefined;
  readonly align?: 'left' | 'right';
}

/**
 * Rows under their titles; a dash for what is not there. Plain characters where the output is not a terminal. What does
 * not fit into a terminal loses its frame, then is wrapped between words; where that does not do either, each row is
 * fields under each other, so that nothing is cut and ids can be copied.
 */
export async function table<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  none = 'There is nothing to show.',
): Promise<string> {
  if (rows.length === 0) return none;
  const cells = rows.map((row) => columns.map((column) => String(column.value(row) ?? '–')));
  const titles = columns.map((column) => column.title);
  const layout: Layout | undefined = process.stdout.isTTY ? fit([titles, ...cells]) : { chars: PLAIN };
  if (layout === undefined) return records(titles, cells);
  const { default: Table } = await import('cli-table3');
  const { style, ...settings } = layout;
  const drawn = new Table({
    head: titles,
    colAligns: columns.map((column) => column.align ?? 'left'),
    style: { head: [], border: [], compact: true, ...style },
    ...settings,
  });
  for (const row of cells) drawn.push(row);
  return drawn.toString();
}

interface Layout {
  readonly chars?: Record<string, string>;
  readonly style?: Record<string, number>;
  readonly colWidths?: number[];
  readonly wordWrap?: boolean;
}

/** Undefined where no table fits into the terminal. */
function fit(cells: readonly (readonly string[])[]): Layout | undefined {
  // A terminal may claim to have no columns at all.
  const room = process.stdout.columns || 80;
  const count = cells[0]?.length ?? 0;
  if (columnWidths(cells, room - count * 3 - 1) === 'natural') return {};
  const widths = columnWidths(cells, room - (count - 1) * TIGHT.middle.length);
  if (widths === undefined) return undefined;
  const tight = { chars: TIGHT, style: { 'padding-left': 0, 'padding-right': 0 } };
  return widths === 'natural' ? tight : { ...tight, colWidths: [...widths], wordWrap: true };
}

/**
 * How wide each column is so that all together take `room` columns of a terminal.
 *
 * @returns undefined where it cannot, not even wrapped between words
 */
export function columnWidths(
  cells: readonly (readonly string[])[],
  room: number,
): readonly number[] | 'natural' | undefined {
  const count = cells[0]?.length ?? 0;
  const column = (index: number): string[] => cells.map((row) => row[index] ?? '');
  const longest = (texts: readonly string[]): number => texts.reduce((most, one) => Math.max(most, shownWidth(one)), 0);
  const wanted = Array.from({ length: count }, (_, index) => longest(column(index)));
  const least = Array.from({ length: count }, (_, index) => longest(column(index).flatMap((one) => one.split(/\s+/))));
  const sum = (widths: readonly number[]): number => widths.reduce((total, width) => total + width, 0);
  if (sum(wanted) <= room) return 'natural';
  let free = room - sum(least);
  if (free < 0) return undefined;
  // One after the other, so that all columns that are cut short are about as wide.
  while (free > 0) {
    const narrowest = least
      .map((width, index) => ({ width, index }))
      .filter(({ width, index }) => width < (wanted[index] ?? 0))
      .sort((a, b) => a.width - b.width)[0];
    if (narrowest === undefined) break;
    least[narrowest.index] = narrowest.width + 1;
    free--;
  }
  return least;
}

/** Columns of a terminal; from the CJK radicals on, characters may take two. */
function shownWidth(text: string): number {
  return [...text].reduce((width, character) => width + ((character.codePointAt(0) ?? 0) >= 0x2e80 ? 2 : 1), 0);
}

function records(titles: readonly string[], cells: readonly (readonly string[])[]): string {
  const width = Math.max(...titles.map(shownWidth));
  return cells
    .map((row) => row.map((cell, index) => `${(titles[index] ?? '').padEnd(width)}  ${cell}`).join('\n'))
    .join('\n\n');
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

const TIGHT = { ...PLAIN, middle: '  ' };

/** Fields under each other; nested values as JSON, indented where they are long; nothing for what is null. */
export function fields(value: Readonly<Record<string, unknown>>): string {
  const shown = shownFields(value);
  const width = Math.max(0, ...shown.map(([name]) => name.length));
  return shown.map(([name, inner]) => `${name.padEnd(width)}  ${fieldText(inner, width + 2)}`).join('\n');
}

/** Longer nested values are a line for each of their fields. */
const INLINE_CHARACTERS = 100;

function fieldText(value: unknown, indent: number): string {
  if (typeof value !== 'object' || value === null) return String(value);
  const json = JSON.stringify(value);
  if (Array.isArray(value) || indent + json.length <= INLINE_CHARACTERS) return json;
  const inner = shownFields(value as Readonly<Record<string, unknown>>);
  const width = Math.max(0, ...inner.map(([name]) => name.length));
  return inner
    .map(([name, one]) => `${name.padEnd(width)}  ${typeof one === 'object' ? JSON.stringify(one) : String(one)}`)
    .join(`\n${' '.repeat(indent)}`);
}

function shownFields(value: Readonly<Record<string, unknown>>): [string, unknown][] {
  return Object.entries(value).filter(([, inner]) => inner !== null && inner !== undefined && inner !== '');
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
