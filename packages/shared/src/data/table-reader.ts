import type { MissingMarker } from './cells.js';
import type { DateFormat } from './date-cells.js';
import type { ImageShape } from './images.js';
import type { DataSource } from './source.js';

/** What a column of the file holds. `text` may spell numbers: a CSV has nothing else. */
export type ColumnFamily = 'number' | 'boolean' | 'text' | 'time' | 'image' | 'unsupported';

export interface TableColumn {
  /** As spelled in the file. */
  readonly name: string;
  /** Folded (`foldName`); unique in the file. Columns are asked for by it. */
  readonly key: string;
  readonly family: ColumnFamily;
}

export interface LevelCount {
  /** Folded text, or the shortest decimal form of a number. */
  readonly value: string;
  readonly count: number;
}

/** One column in full. It stays at the site: only what `suppressColumn` makes of it may leave. */
export interface ColumnProfile {
  readonly name: string;
  readonly key: string;
  readonly family: ColumnFamily;
  /** Rows with a value. */
  readonly present: number;
  /** Rows whose value is a number or spells one. */
  readonly numbers: number;
  /** Some value has a leading zero (`01234`): the column holds codes, not numbers. */
  readonly hasCodes: boolean;
  /** Every number is whole. */
  readonly whole: boolean;
  /** Distinct values, to a few percent. */
  readonly distinctEstimate: number;
  /** Whole numbers that fill their range, each once or nearly: a row number. */
  readonly sequential: boolean;
  /** Numeric columns: mean and population standard deviation. */
  readonly mean: number;
  readonly deviation: number;
  /** Numeric columns: rows holding 0, and mean and deviation of the others. */
  readonly zeros: number;
  readonly nonZeroMean: number;
  readonly nonZeroDeviation: number;
  /** Every value with its count; null where there are more than `maxLevels`. */
  readonly levels: readonly LevelCount[] | null;
}

/**
 * How a cell becomes a number. NaN is a missing cell.
 *
 * - `number`: its value; Infinity where it is no finite number.
 * - `boolean`: 1 or 0; Infinity for anything else.
 * - `level`: position of the folded text in `levels`, or -1.
 * - `date`: milliseconds since 1970 in UTC; Infinity where it is no date of the format. Times without a zone are UTC.
 * - `digest`: 52 bits of the MD5 of the seed, a colon and the folded text (`textDigest`); whole numbers are their digits,
 *   others Infinity, for their spelling differs between formats.
 * - `image`: height × width × channels numbers from 0 to 1, one after the other; the first is NaN where there is none.
 * - `content`: a number that is equal for equal cells, whatever the file's format; for hashing.
 */
export type CellRequest =
  | { readonly column: string; readonly as: 'number' | 'boolean'; readonly missingTexts?: readonly string[] }
  | {
      readonly column: string;
      readonly as: 'level';
      readonly levels: readonly string[];
      readonly missingTexts?: readonly string[];
    }
  | {
      readonly column: string;
      readonly as: 'date';
      readonly format: DateFormat;
      readonly missingTexts?: readonly string[];
    }
  | {
      readonly column: string;
      readonly as: 'digest';
      readonly seed: string;
      readonly missingTexts?: readonly string[];
    }
  | ({ readonly column: string; readonly as: 'image' } & ImageShape)
  | { readonly column: string; readonly as: 'content' };

/** A run of rows in file order: one array per requested cell, of as many numbers as cells have. Valid until the next chunk is asked for. */
export interface CellChunk {
  readonly rows: number;
  readonly columns: readonly Float64Array[];
}

export interface ProfileRequest {
  /** Keys of the columns to profile. */
  readonly columns: readonly string[];
  readonly maxLevels: number;
  /** By column key. */
  readonly missingMarkers: ReadonlyMap<string, readonly MissingMarker[]>;
}

/** One open table. A reader of another kind needs these four and nothing else. */
export interface TableReader {
  readonly source: DataSource;
  /** In file order. */
  readonly columns: readonly TableColumn[];
  countRows(): Promise<number>;
  /** The same where the files say it, and need not be read for it; otherwise undefined. */
  knownRows?(): Promise<number | undefined>;
  profile(request: ProfileRequest): Promise<ColumnProfile[]>;
  /** All rows in file order, read once. */
  stream(cells: readonly CellRequest[]): AsyncIterable<CellChunk>;
  close(): void;
}
