import type { CellRequest, ColumnProfile, ProfileRequest, TableColumn } from '../table-reader.js';

/** A run of rows: their cells, and their pictures when asked for. Valid until the next run is asked for. */
export interface PictureRun {
  readonly rows: number;
  readonly columns: readonly Float64Array[];
  /** The encoded picture of a row; undefined where it has none. @throws OctomilError naming it */
  read(row: number): Promise<Uint8Array | undefined>;
  /** What messages call the picture of a row. */
  nameOf(row: number): string;
}

/** What is known of pictures beside themselves, as a table. */
export interface PictureRows {
  readonly columns: readonly TableColumn[];
  countRows(): Promise<number>;
  /** Rows that have a picture, be it readable or not. */
  countPictures(): Promise<number>;
  profile(request: ProfileRequest): Promise<ColumnProfile[]>;
  stream(cells: readonly CellRequest[]): AsyncIterable<PictureRun>;
  close(): void;
}
