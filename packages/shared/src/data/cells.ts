/**
 * Cells as text: what means "missing", what is a number, and how two spellings are the same.
 *
 * The table readers and `encodeRows` follow these rules alike, so that a row given by an application at inference
 * is encoded exactly as the same row in a file. Only ASCII letters are folded: the full Unicode rules differ between
 * JavaScript and DuckDB.
 */

/** Cells that mean "missing" in every column, compared after trimming. */
export const MISSING_TEXTS = ['', 'NA', 'N/A', '?', 'null', 'NULL', 'NaN', 'nan', 'None', '.'] as const;

/** Characters trimmed from both ends of a cell; the last is the no-break space that spreadsheets leave behind. */
export const TRIMMED = ' \t\r\n\u00a0';

export const TRUE_TEXTS = ['true', 'yes', 'y', '1'] as const;
export const FALSE_TEXTS = ['false', 'no', 'n', '0'] as const;

const MISSING: ReadonlySet<string> = new Set(MISSING_TEXTS);
const EDGES = /^[ \t\r\n\u00a0]+|[ \t\r\n\u00a0]+$/g;
const NUMBER = /^[+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;

export function trimCell(text: string): string {
  return text.replace(EDGES, '');
}

/** Trimmed, ASCII letters in lower case. */
export function foldCell(text: string): string {
  return trimCell(text).replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

export function isMissingText(text: string): boolean {
  return MISSING.has(trimCell(text));
}

/** The number that a cell spells; undefined where it is no number. */
export function numberOfText(text: string): number | undefined {
  const trimmed = trimCell(text);
  return NUMBER.test(trimmed) ? Number(trimmed.replaceAll('_', '')) : undefined;
}

/** A value that means "missing" in one column: `0`, `-9`, `'unknown'`. */
export type MissingMarker = number | string;

/** Markers as numbers and as folded texts: `'-9'` is both, and `-9` matches the text `-9`. */
export function splitMarkers(markers: readonly MissingMarker[]): { numbers: number[]; texts: string[] } {
  const numbers = new Set<number>();
  const texts = new Set<string>();
  for (const marker of markers) {
    texts.add(foldCell(String(marker)));
    const number = typeof marker === 'number' ? marker : numberOfText(marker);
    if (number !== undefined) numbers.add(number);
  }
  return { numbers: [...numbers], texts: [...texts] };
}

/** Two column names are the same when these are: `Chest Pain`, `chest_pain` and `CHEST-PAIN ` agree. */
export function foldName(name: string): string {
  return trimCell(name.normalize('NFKC'))
    .toLowerCase()
    .replace(/[\s._-]+/gu, '_');
}
