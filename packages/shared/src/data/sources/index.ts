export { isGlob, parseGlob } from './glob.js';
export { isDataName, type ListLimits, listSource } from './list-source.js';
export {
  type OpenedSource,
  type OpenSourceOptions,
  openSource,
  type SourceFile,
} from './open-source.js';
export type { Pace } from './paced-client.js';
export { openSourceClient } from './source-client.js';
export { type AcquiredSource, type AcquireOptions, SourceFiles, type SourceFilesOptions } from './source-files.js';
export { isRemoteSource } from './source-scheme.js';
export { parseSourceUrl, type SourcePlace, type SourceUrl } from './source-url.js';
export { TemporaryCopies, type TemporaryCopiesOptions } from './temporary-copies.js';
