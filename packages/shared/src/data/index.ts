export {
  FALSE_TEXTS,
  foldCell,
  foldName,
  isMissingText,
  MISSING_TEXTS,
  type MissingMarker,
  numberOfText,
  splitMarkers,
  TRUE_TEXTS,
  trimCell,
} from './cells.js';
export { DATE_FORMATS, type DateFormat, dateOfText } from './date-cells.js';
export { digestOf } from './digest.js';
export { ENCODINGS, type Encoding } from './encoding.js';
export { formatOfName } from './format-of-name.js';
export { DEFAULT_IMAGE_LIMITS, decodeImage, type ImageLimits, type ImageShape, resizeImage } from './images.js';
export { formatOf, type LocatedFile, type LocatedTable, locate, pathsOf } from './locate.js';
export { type MemoryBudget, memoryBudget } from './memory-budget.js';
export { openTable } from './open-table.js';
export { USUAL_PICTURE_COLUMNS } from './pictures/duckdb-rows.js';
export { locateData } from './pictures/locate-data.js';
export { isPictureFolder } from './pictures/locate-pictures.js';
export { withoutPictureNames } from './pictures/picture-names.js';
export { IMAGE_COLUMN, pictureChunkRows } from './pictures/picture-reader.js';
export {
  type DataSource,
  type PictureSettings,
  READERS,
  type ReaderName,
  TABLE_FORMATS,
  type TableFormat,
  THOUSANDS_SEPARATORS,
  type ThousandsSeparator,
} from './source.js';
export * from './sources/index.js';
export type {
  CellChunk,
  CellRequest,
  ColumnFamily,
  ColumnProfile,
  LevelCount,
  ProfileRequest,
  TableColumn,
  TableReader,
} from './table-reader.js';
export { cellOfCode, type PlainRequest } from './value-cells.js';
