export { ENCODINGS, type Encoding } from './encoding.js';
export type { DataSource, TableFormat } from './source.js';
