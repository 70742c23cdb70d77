import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { trimCell } from '../cells.js';
import { DEFAULT_IMAGE_LIMITS } from '../images.js';
import type { LocatedFile } from '../locate.js';
import type { DataSource } from '../source.js';
import type { CellRequest, ColumnProfile, ProfileRequest, TableColumn } from '../table-reader.js';
import { cellOfValue } from '../value-cells.js';
import { ValueProfile } from '../value-profile.js';
import { namedPicture } from './picture-names.js';
import type { PictureRows, PictureRun } from './picture-rows.js';

const LABEL: TableColumn = { name: 'label', key: 'label', family: 'text' };
const RUN_ROWS = 2_048;

/** A folder for each class, with its pictures anywhere below: one column, `label`, the folder's name. */
export class FolderRows implements PictureRows {
  readonly columns = [LABEL];
  readonly #files: readonly LocatedFile[];
  readonly #missingTexts: ReadonlySet<string>;

  /** @throws `data_unreadable` for a picture outside of the classes' folders */
  constructor(source: DataSource, files: readonly LocatedFile[]) {
    const loose = files.find(({ shown }) => !shown.includes('/'));
    if (loose !== undefined) {
      throw new OctomilError(
        'data_unreadable',
        `${source.path}: the ${namedPicture(loose.shown)} is in no folder of a class; move it to one such as normal/, or add a table of labels (labels.csv with the columns image and label)`,
      );
    }
    this.#files = files;
    this.#missingTexts = new Set((source.missingTexts ?? []).map(trimCell));
  }

  countRows(): Promise<number> {
    return Promise.resolve(this.#files.length);
  }

  countPictures(): Promise<number> {
    return this.countRows();
  }

  profile({ columns, maxLevels, missingMarkers }: ProfileRequest): Promise<ColumnProfile[]> {
    const profiles = columns.map(() => {
      const profile = new ValueProfile(LABEL, maxLevels, missingMarkers.get(LABEL.key) ?? [], this.#missingTexts);
      for (const file of this.#files) profile.add(labelOf(file));
      return profile.take();
    });
    return Promise.resolve(profiles);
  }

  async *stream(cells: readonly CellRequest[]): AsyncGenerator<PictureRun> {
    // Few labels, of many pictures.
    const known = cells.map(() => new Map<string, number>());
    const cellOf = (label: string, request: CellRequest, at: number): number => {
      const found = known[at]?.get(label);
      if (found !== undefined) return found;
      const cell = cellOfValue(label, LABEL.family, request, this.#missingTexts);
      known[at]?.set(label, cell);
      return cell;
    };
    for (let start = 0; start < this.#files.length; start += RUN_ROWS) {
      const files = this.#files.slice(start, start + RUN_ROWS);
      yield {
        rows: files.length,
        columns: cells.map((request, at) => Float64Array.from(files, (file) => cellOf(labelOf(file), request, at))),
        read: (row) => readPicture(files[row]),
        nameOf: (row) => namedPicture(basename(files[row]?.shown ?? '')),
      };
    }
  }

  close(): void {
    // Holds nothing.
  }
}

const labelOf = ({ shown }: LocatedFile): string => shown.slice(0, shown.indexOf('/'));

/** @throws `data_unreadable` without the folder's name in it, `too_large` */
export async function readPicture(file: LocatedFile | undefined): Promise<Uint8Array | undefined> {
  if (file === undefined) return undefined;
  const { maxEncodedBytes } = DEFAULT_IMAGE_LIMITS;
  // Several are read at once, before anybody looks at them.
  if (file.sizeBytes > maxEncodedBytes) {
    throw new OctomilError('too_large', `it has ${file.sizeBytes} bytes, which is over ${maxEncodedBytes}`);
  }
  try {
    return await readFile(file.path);
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    throw new OctomilError('data_unreadable', `the picture cannot be opened (${String(code)})`);
  }
}
