import { setImmediate } from 'node:timers/promises';
import { OctomilError } from '@octomil/shared/errors';
import { formatOfName } from '../format-of-name.js';
import { readImageHeader } from '../image-header.js';
import { DEFAULT_IMAGE_LIMITS, decodeImage, type ImageShape, resizeImage } from '../images.js';
import { inOrder } from '../in-order.js';
import { locate } from '../locate.js';
import type { MemoryBudget } from '../memory-budget.js';
import type { DataSource } from '../source.js';
import type {
  CellChunk,
  CellRequest,
  ColumnProfile,
  ProfileRequest,
  TableColumn,
  TableReader,
} from '../table-reader.js';
import { bytesDigest } from '../value-cells.js';
import { openDuckDbRows } from './duckdb-rows.js';
import { FolderRows } from './folder-rows.js';
import { locatePictures } from './locate-pictures.js';
import type { PictureRows, PictureRun } from './picture-rows.js';

/** What the column of pictures is called, whatever the files call it. */
export const IMAGE_COLUMN = 'image';
const IMAGE: TableColumn = { name: IMAGE_COLUMN, key: IMAGE_COLUMN, family: 'image' };

/** Of the pictures in one chunk, as 64-bit numbers. */
const CHUNK_BYTES = 8_388_608;
const MAX_CHUNK_ROWS = 2_048;
/** Encoded pictures that are read before they are needed. */
const READS_AT_ONCE = 8;
/** Pictures that cannot be read are left out up to this share of all. */
const MAX_UNREADABLE_RATIO = 0.01;
/** What decoding takes for each pixel. */
const DECODING_BYTES_PER_PIXEL = 12;

/** Rows of one chunk whose pictures have so many numbers. */
export function pictureChunkRows(values: number): number {
  return Math.max(1, Math.min(MAX_CHUNK_ROWS, Math.floor(CHUNK_BYTES / 8 / values)));
}

/**
 * Opens pictures with their labels as a table with the column `image`: a folder with a folder for each class, a folder with
 * a table of labels, or Parquet files with encoded pictures. Rows without a picture are left out where pictures are asked
 * for, and those of which it cannot be read, up to 1 in 100.
 *
 * @throws `data_unreadable` where there are none, or more cannot be read; `insufficient_memory` for a picture that is too
 * large for the budget; `invalid_input` for paths that lead out of the folder; as `openTable`
 */
export async function openPictures(source: DataSource, memory: MemoryBudget): Promise<TableReader> {
  const rows = await openRows(source, memory);
  const other = rows.columns.find(({ key }) => key === IMAGE_COLUMN);
  if (other === undefined) return new PictureReader(source, rows, memory);
  rows.close();
  throw new OctomilError(
    'data_unreadable',
    `${source.path} has a column "${other.name}" besides the one that images.column names, which is read as "${IMAGE_COLUMN}"; rename it`,
  );
}

async function openRows(source: DataSource, { readerBytes }: MemoryBudget): Promise<PictureRows> {
  const located = locatePictures(source);
  if (located === undefined) {
    const table = locate(source);
    if (table.format === 'parquet') return openDuckDbRows(source, table, undefined, readerBytes);
    throw new OctomilError(
      'data_unreadable',
      `${source.path} is neither a folder with pictures nor Parquet; name the folder, and a table of labels in it with images.labels`,
    );
  }
  const { files, labels } = located;
  if (labels === undefined) return new FolderRows(source, files);
  const format = source.format ?? formatOfName(labels.shown);
  if (format !== undefined) return openDuckDbRows(source, { format, files: [labels] }, files, readerBytes);
  throw new OctomilError(
    'data_unreadable',
    `${labels.shown}: the name says no format; use .csv, .tsv, .jsonl or .parquet`,
  );
}

class PictureReader implements TableReader {
  readonly source: DataSource;
  readonly columns: readonly TableColumn[];
  readonly #rows: PictureRows;
  readonly #memory: MemoryBudget;

  constructor(source: DataSource, rows: PictureRows, memory: MemoryBudget) {
    this.source = source;
    this.columns = [IMAGE, ...rows.columns];
    this.#rows = rows;
    this.#memory = memory;
  }

  countRows(): Promise<number> {
    return this.#rows.countRows();
  }

  knownRows(): Promise<number> {
    return this.countRows();
  }

  async profile(request: ProfileRequest): Promise<ColumnProfile[]> {
    const others = await this.#rows.profile({
      ...request,
      columns: request.columns.filter((key) => key !== IMAGE_COLUMN),
    });
    const present = await this.#rows.countPictures();
    return request.columns.map((key) => (key === IMAGE_COLUMN ? imageProfile(present) : take(others)));
  }

  async *stream(cells: readonly CellRequest[]): AsyncGenerator<CellChunk> {
    const plan = planCells(cells);
    const needsPictures = plan.pictures.length > 0;
    const unreadable = needsPictures ? new Unreadable(this.source.path, await this.#rows.countPictures()) : undefined;
    const step = pictureChunkRows(Math.max(1, ...plan.sizes));
    const arrays = plan.sizes.map((size) => new Float64Array(step * size));
    for await (const run of this.#rows.stream(plan.others)) {
      if (unreadable === undefined) {
        yield { rows: run.rows, columns: run.columns };
        continue;
      }
      let filled = 0;
      for await (const { row, bytes, error } of readAll(run)) {
        const isThere = await this.#take(plan, arrays, filled, { run, row, bytes, error, unreadable });
        if (!isThere) continue;
        filled++;
        if (filled < step) continue;
        yield { rows: filled, columns: arrays };
        filled = 0;
        // Decoding waits for nothing: others, such as a cancellation, get their turn here.
        await setImmediate();
      }
      if (filled > 0)
        yield { rows: filled, columns: arrays.map((array, at) => array.subarray(0, filled * (plan.sizes[at] ?? 1))) };
    }
  }

  close(): void {
    this.#rows.close();
  }

  /** Writes a row's cells; false where it is left out. */
  async #take(plan: CellPlan, arrays: readonly Float64Array[], at: number, read: ReadRow): Promise<boolean> {
    const { run, row, bytes, unreadable } = read;
    try {
      if (read.error !== undefined) throw read.error;
      if (bytes === undefined) return false;
      for (const { place, request } of plan.pictures) {
        if (request.as === 'image')
          arrays[place]?.set(await this.#decode(bytes, request), at * (plan.sizes[place] ?? 1));
        else arrays[place]?.fill(bytesDigest(bytes), at, at + 1);
      }
    } catch (thrown) {
      unreadable.add(run.nameOf(row), thrown);
      return false;
    }
    plan.otherPlaces.forEach((place, index) => {
      arrays[place]?.fill(run.columns[index]?.[row] ?? Number.NaN, at, at + 1);
    });
    return true;
  }

  async #decode(bytes: Uint8Array, shape: ImageShape): Promise<Float32Array> {
    const { width, height } = readImageHeader(bytes);
    const needed = width * height * DECODING_BYTES_PER_PIXEL;
    const { readerBytes } = this.#memory;
    const { maxPixels } = DEFAULT_IMAGE_LIMITS;
    // A size that no memory would do for is the picture's own fault, and decoding says so.
    if (needed <= readerBytes || width * height > maxPixels) return resizeImage(await decodeImage(bytes), shape);
    throw new OctomilError(
      'insufficient_memory',
      `a picture of ${width} × ${height} pixels takes ${needed} bytes to decode, and reading may take ${readerBytes}; allow more memory, or resize the pictures`,
    );
  }
}

interface ReadRow {
  readonly run: PictureRun;
  readonly row: number;
  readonly bytes?: Uint8Array | undefined;
  readonly error?: unknown;
  readonly unreadable: Unreadable;
}

/** The encoded pictures of a run, in order, a few of them ahead. */
function readAll(run: PictureRun) {
  return inOrder(Array(run.rows).keys(), READS_AT_ONCE, async (row) => {
    try {
      return { row, bytes: await run.read(row) };
    } catch (error: unknown) {
      return { row, error };
    }
  });
}

interface CellPlan {
  /** Numbers of one cell, by request. */
  readonly sizes: readonly number[];
  readonly pictures: readonly { readonly place: number; readonly request: CellRequest }[];
  readonly others: readonly CellRequest[];
  readonly otherPlaces: readonly number[];
}

function planCells(cells: readonly CellRequest[]): CellPlan {
  const pictures = cells.flatMap((request, place) => (request.column === IMAGE_COLUMN ? [{ place, request }] : []));
  for (const { request } of pictures) {
    if (request.as === 'image' || request.as === 'content') continue;
    throw new OctomilError('data_mismatch', `the column "${IMAGE_COLUMN}" holds pictures, not a ${request.as}`);
  }
  const otherPlaces = cells.flatMap((request, place) => (request.column === IMAGE_COLUMN ? [] : [place]));
  return {
    sizes: cells.map((request) => (request.as === 'image' ? request.height * request.width * request.channels : 1)),
    pictures,
    others: cells.filter((request) => request.column !== IMAGE_COLUMN),
    otherPlaces,
  };
}

/** Counts pictures that cannot be read, until they are too many. */
class Unreadable {
  readonly #path: string;
  readonly #limit: number;
  #count = 0;

  constructor(path: string, pictures: number) {
    this.#path = path;
    this.#limit = Math.floor(pictures * MAX_UNREADABLE_RATIO);
  }

  /** @throws `data_unreadable` naming the picture, once there are too many; at once what is no fault of a picture */
  add(name: string, thrown: unknown): void {
    const error = thrown instanceof OctomilError ? thrown : undefined;
    if (error?.code !== 'data_unreadable' && error?.code !== 'too_large') throw thrown;
    this.#count++;
    if (this.#count <= this.#limit) return;
    const others =
      this.#limit === 0 ? '' : `; more than ${MAX_UNREADABLE_RATIO * 100} % of the pictures cannot be read`;
    throw new OctomilError(
      'data_unreadable',
      `${this.#path}: the ${name}: ${error.reason.replace(/^the picture /, 'it ')}${others}; mend or remove it`,
      { cause: thrown },
    );
  }
}

function imageProfile(present: number): ColumnProfile {
  return {
    ...IMAGE,
    ...{ present, numbers: 0, hasCodes: false, whole: false, distinctEstimate: 0, sequential: false },
    ...{ mean: 0, deviation: 0, zeros: 0, nonZeroMean: 0, nonZeroDeviation: 0, levels: null },
  };
}

function take(profiles: ColumnProfile[]): ColumnProfile {
  const [first] = profiles.splice(0, 1);
  if (first === undefined) throw new OctomilError('internal', 'a column was asked for and not profiled');
  return first;
}
