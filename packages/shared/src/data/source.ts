import type { Encoding } from './encoding.js';

export const TABLE_FORMATS = ['csv', 'parquet', 'jsonl'] as const;
export type TableFormat = (typeof TABLE_FORMATS)[number];

/** What separates the thousands of a number: `1,234.5`, `1.234,5`, `1 234,5` (also no-break spaces) or `1'234.5`. */
export const THOUSANDS_SEPARATORS = [',', '.', ' ', "'"] as const;
export type ThousandsSeparator = (typeof THOUSANDS_SEPARATORS)[number];

export const READERS = ['duckdb', 'parquetjs-lite'] as const;
export type ReaderName = (typeof READERS)[number];

/** Pictures with labels: which column they are in, and what tells more of them. */
export interface PictureSettings {
  /**
   * Column of the pictures: paths in a table of labels, bytes in a Parquet file. Default `image`, or the first of
   * `file_name`, `path` and `file` that is there. Whatever it is called here, it is read as `image`.
   */
  readonly column?: string;
  /** Table of labels in the folder, such as `labels.csv`, which is its default where there is one. */
  readonly labels?: string;
}

/** One table and how to read it. JSON, so that it can travel to the trainer process. */
export interface DataSource {
  /**
   * Path of the file: `.csv`, `.tsv`, `.parquet` or `.jsonl`, texts also with `.gz`. A folder or a pattern (`*`, `?`,
   * `[ab]`, `**`) stands for all the files with data in it: they must have the same columns and make one table. Or the
   * URL of any of these: `s3:`, `gs:`, `az:`, `abfss:`, `https:`, `file:`. `SourceFiles` makes local files of URLs.
   */
  readonly path: string;
  /** The files of the table in their order, paths or URLs; `path` then is only what they are called together. */
  readonly files?: readonly string[];
  /** What messages call the files. Default: their paths. */
  readonly fileNames?: readonly string[];
  /** Known digest of what the files hold, where they are copies of something that says its version: not to be read for it. */
  readonly digest?: string;
  /** Default: by the files' names. */
  readonly format?: TableFormat;
  /** Default `duckdb`. `parquetjs-lite`, which must be installed, reads a single simple Parquet file. */
  readonly reader?: ReaderName;
  /** CSV: one character. Default: found from the first lines among `,` `;` tab and `|`. */
  readonly delimiter?: string;
  /** CSV: whether the first line names the columns. Default true; false needs `columns`. */
  readonly header?: boolean;
  /** CSV without a header: the columns' names in order. */
  readonly columns?: readonly string[];
  /** CSV: default `,` when the delimiter is another character and the first lines hold `12,5` but no `12.5`. */
  readonly decimalSeparator?: '.' | ',';
  /** CSV, JSONL: default none, so that `1,234` is text. */
  readonly thousandsSeparator?: ThousandsSeparator;
  /** CSV: one character; from it to the end of a line, outside quotes, nothing counts. Default none. */
  readonly comment?: string;
  /** CSV: default by byte order mark, else UTF-8 where the start of the file is valid UTF-8, else latin-1. */
  readonly encoding?: Encoding;
  /** Texts that mean "missing" in any column, besides {@link MISSING_TEXTS}. */
  readonly missingTexts?: readonly string[];
  /** The site's units by column (its own name or the federation's), such as `{ chol: 'mmol/L' }`. */
  readonly units?: Readonly<Record<string, string>>;
  /** What the files call a column, by the federation's name for it: `{ chol: 'Serum cholesterol' }`. */
  readonly names?: Readonly<Record<string, string>>;
  /** With it the source is a data set of pictures: `openTable` says of which kinds. */
  readonly images?: PictureSettings;
  /** Compressed texts: bytes that one file may unpack to. Default 16 GiB. */
  readonly maxUnpackedBytes?: number;
}
