import { OctomilError } from '@octomil/shared/errors';
import type { ByteRange } from '@octomil/shared/storage';
import { foldName } from '../cells.js';

/** Ends a file: length of the metadata (4 bytes), `PAR1`. */
export const TRAILER_BYTES = 8;
/** Metadata beyond this is no ordinary file's; it is then read by the engine, which has limits of its own. */
const MAX_METADATA_BYTES = 64 * 1024 * 1024;
/**
 * Old writers counted a chunk's dictionary page without its header (PARQUET-816); readers add as much.
 */
const SLACK_BYTES = 100;

export interface ColumnChunk {
  /** Of the outermost column, as readers name it. */
  readonly key: string;
  readonly rowGroup: number;
  /** Pages, and what indexes and filters readers may look into. */
  readonly ranges: readonly ByteRange[];
}

/** Where the columns of a Parquet file lie. */
export interface ParquetLayout {
  /** Rows of each row group. */
  readonly rowGroups: readonly number[];
  readonly chunks: readonly ColumnChunk[];
}

/**
 * Where the metadata begins.
 *
 * @param trailer the last {@link TRAILER_BYTES} of the file
 * @returns undefined where the file is not one of which parts can be read
 * @throws `corrupt_file` for a file that does not end as Parquet does
 */
export function metadataStart(trailer: Buffer, sizeBytes: number, place: string): number | undefined {
  const magic = trailer.toString('latin1', 4);
  // Encrypted metadata: the engine says what it thinks of it.
  if (magic === 'PARE') return undefined;
  const lengthBytes = trailer.readUInt32LE(0);
  if (magic !== 'PAR1' || lengthBytes > sizeBytes - TRAILER_BYTES - 4) throw damaged(place);
  return lengthBytes > MAX_METADATA_BYTES ? undefined : sizeBytes - TRAILER_BYTES - lengthBytes;
}

/**
 * @param footer the metadata and the trailer
 * @returns undefined where the file is not one of which parts can be read
 * @throws `corrupt_file` where columns lie outside the file
 */
export async function parquetLayout(
  footer: Buffer,
  sizeBytes: number,
  place: string,
): Promise<ParquetLayout | undefined> {
  const { parquetMetadata, parquetSchema } = await import('hyparquet');
  let metadata: ReturnType<typeof parquetMetadata>;
  try {
    metadata = parquetMetadata(footer, { geoparquet: false });
  } catch {
    return undefined;
  }
  const keys = new Map(
    parquetSchema(metadata).children.map(({ element: { name } }, index) => [
      name,
      foldName(name.trim() === '' ? `unnamed_${index + 1}` : name),
    ]),
  );
  const metadataFrom = sizeBytes - footer.length;
  const chunks: ColumnChunk[] = [];
  for (const [rowGroup, { columns }] of metadata.row_groups.entries()) {
    for (const column of columns) {
      const { meta_data: pages } = column;
      // Columns in files of their own, or encrypted ones.
      if (pages === undefined || column.file_path) return undefined;
      const dictionary = Number(pages.dictionary_page_offset ?? 0);
      const data = Number(pages.data_page_offset);
      const start = dictionary > 0 && dictionary < data ? dictionary : data;
      const end = start + Number(pages.total_compressed_size);
      const extras = [
        extra(pages.bloom_filter_offset, pages.bloom_filter_length),
        extra(column.column_index_offset, column.column_index_length),
        extra(column.offset_index_offset, column.offset_index_length),
      ];
      // A filter of unknown length.
      if (extras.includes('unknown')) return undefined;
      const ranges = [{ start, end: Math.min(end + SLACK_BYTES, metadataFrom) }, ...extras].filter(isRange);
      if (start < 4 || end > metadataFrom || ranges.some((range) => range.end > metadataFrom)) throw damaged(place);
      chunks.push({ key: keys.get(pages.path_in_schema[0] ?? '') ?? '', rowGroup, ranges });
    }
  }
  return { rowGroups: metadata.row_groups.map(({ num_rows: rows }) => Number(rows)), chunks };
}

/** The bytes that hold these columns; of as many row groups as the first `maxRows` rows are in. */
export function columnRanges(
  { chunks, rowGroups }: ParquetLayout,
  columns: readonly string[],
  maxRows = Number.POSITIVE_INFINITY,
): ByteRange[] {
  const wanted = new Set(columns.map(foldName));
  let before = 0;
  const inReach = rowGroups.map((rows) => {
    const reached = before < maxRows;
    before += rows;
    return reached;
  });
  return chunks
    .filter(({ key, rowGroup }) => wanted.has(key) && inReach[rowGroup] === true)
    .flatMap(({ ranges }) => ranges);
}

function extra(offset: bigint | undefined, length: number | undefined): ByteRange | 'none' | 'unknown' {
  if (offset === undefined) return 'none';
  return length === undefined ? 'unknown' : { start: Number(offset), end: Number(offset) + length };
}

function isRange(found: ByteRange | string): found is ByteRange {
  return typeof found !== 'string';
}

function damaged(place: string): OctomilError {
  return new OctomilError(
    'corrupt_file',
    `${place} is not a whole Parquet file (cut short or damaged); copy or export it again`,
  );
}
