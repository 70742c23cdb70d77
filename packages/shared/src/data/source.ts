import type { Encoding } from './encoding.js';

export type TableFormat = 'csv' | 'parquet';

/** One local table and how to read it. JSON, so that it can travel to the trainer process. */
export interface DataSource {
  /** Path of the file: `.csv`, `.tsv`, `.csv.gz` or `.parquet`. */
  readonly path: string;
  /** Default: by the file's name. */
  readonly format?: TableFormat;
  /** CSV: one character. Default: found from the first lines among `,` `;` tab and `|`. */
  readonly delimiter?: string;
  /** CSV: default `,` when the delimiter is another character and the first lines hold `12,5` but no `12.5`. */
  readonly decimalSeparator?: '.' | ',';
  /** CSV: default by byte order mark, else UTF-8 where the start of the file is valid UTF-8, else latin-1. */
  readonly encoding?: Encoding;
  /** Texts that mean "missing" in any column, besides {@link MISSING_TEXTS}. */
  readonly missingTexts?: readonly string[];
}
