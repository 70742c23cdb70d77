// Child process: reads one file with one reader into one row-major Float32Array and prints what that took. Standing
// alone, so that a reader pays for its own modules and for nobody else's.
import { createReadStream } from 'node:fs';
import { processMemoryMiB } from './process-memory.js';

const ROW_LIMIT = 100_000_000;

/** Rows of numbers, appended row by row; grows by doubling where the count is not known. */
class Tensor {
  readonly width: number;
  values: Float32Array;
  rows = 0;

  constructor(width: number, rows: number) {
    this.width = width;
    this.values = new Float32Array(rows * width);
  }

  reserve(rows: number): void {
    const needed = (this.rows + rows) * this.width;
    if (needed <= this.values.length) return;
    const larger = new Float32Array(Math.min(needed * 2, ROW_LIMIT * this.width));
    larger.set(this.values);
    this.values = larger;
  }
}

interface ReadRequest {
  readonly path: string;
  readonly columns: readonly string[];
  readonly rows: number;
}

const READERS: Readonly<Record<string, (request: ReadRequest) => Promise<Tensor>>> = {
  octomil: readOctomil,
  hyparquet: readHyparquet,
  papaparse: readPapaparse,
  'parquetjs-lite': readParquetjsLite,
};

/** As the trainer does it: features scaled and encoded by a spec, with a target and no rows held out. */
async function readOctomil({ path, columns }: ReadRequest): Promise<Tensor> {
  const { loadDataset, parseTargetRule, sealFeatureSpec } = await import('@octomil/shared/features');
  const spec = sealFeatureSpec({
    formatVersion: 1,
    layout: 'table',
    columns: columns.map((name) => ({
      kind: 'numeric' as const,
      name,
      mean: 0,
      deviation: 1,
      missingMarkers: [],
      missingIndicator: false,
    })),
    target: {
      rule: parseTargetRule('y>0'),
      output: { kind: 'binary' },
      classes: [],
      values: 'number',
      mean: 0,
      deviation: 1,
      missingMarkers: [],
    },
  });
  const { train } = await loadDataset({ path }, spec, { salt: 'bench', shareRatio: 0 });
  const tensor = new Tensor(train.width, 0);
  tensor.values = await train.readRange(0, train.rows);
  tensor.rows = train.rows;
  return tensor;
}

async function readHyparquet({ path, columns }: ReadRequest): Promise<Tensor> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetRead } = await import('hyparquet/src/node.js');
  const { compressors } = await import('hyparquet-compressors');
  const file = await asyncBufferFromFile(path);
  const metadata = await parquetMetadataAsync(file);
  const tensor = new Tensor(columns.length, Number(metadata.num_rows));
  const places = new Map(columns.map((name, i) => [name, i]));
  for (const group of metadata.row_groups) {
    const rows = Number(group.num_rows);
    await parquetRead({
      file,
      metadata,
      compressors,
      columns: [...columns],
      rowStart: tensor.rows,
      rowEnd: tensor.rows + rows,
      onChunk: ({ columnName, columnData, rowStart }) => {
        const place = places.get(columnName) ?? 0;
        for (let i = 0; i < columnData.length; i++) {
          tensor.values[(rowStart + i) * tensor.width + place] = Number(columnData[i]);
        }
      },
    });
    tensor.rows += rows;
  }
  return tensor;
}

async function readPapaparse({ path, columns, rows }: ReadRequest): Promise<Tensor> {
  const { default: Papa } = await import('papaparse');
  const tensor = new Tensor(columns.length, rows);
  let places: number[] | undefined;
  await new Promise<void>((resolve, reject) => {
    Papa.parse<string[]>(createReadStream(path), {
      chunk: ({ data }) => {
        for (const cells of data) {
          if (places === undefined) {
            places = columns.map((name) => cells.indexOf(name));
            continue;
          }
          if (cells.length < places.length) continue;
          tensor.reserve(1);
          for (const [i, place] of places.entries()) {
            tensor.values[tensor.rows * tensor.width + i] = Number(cells[place]);
          }
          tensor.rows++;
        }
      },
      complete: () => resolve(),
      error: reject,
    });
  });
  return tensor;
}

interface LiteReader {
  getCursor(columns: string[]): { next(): Promise<Readonly<Record<string, number>> | null | undefined> };
  close(): Promise<void>;
}

async function readParquetjsLite({ path, columns, rows }: ReadRequest): Promise<Tensor> {
  const { createRequire } = await import('node:module');
  const lite = createRequire(import.meta.url)('parquetjs-lite') as {
    ParquetReader: { openFile(path: string): Promise<LiteReader> };
  };
  const reader = await lite.ParquetReader.openFile(path);
  const cursor = reader.getCursor([...columns]);
  const tensor = new Tensor(columns.length, rows);
  for (let row = await cursor.next(); row !== null && row !== undefined; row = await cursor.next()) {
    tensor.reserve(1);
    for (const [i, name] of columns.entries()) tensor.values[tensor.rows * tensor.width + i] = row[name] ?? Number.NaN;
    tensor.rows++;
  }
  await reader.close();
  return tensor;
}

const [name = '', path = '', width = '0', rows = '0'] = process.argv.slice(2);
const read = READERS[name];
if (read === undefined) throw new TypeError(`no reader "${name}"`);
const columns = Array.from({ length: Number(width) }, (_, i) => `c${i}`);
const started = performance.now();
const tensor = await read({ path, columns, rows: Number(rows) });
const wallSeconds = (performance.now() - started) / 1_000;
// All threads, from the start of the process on.
const { user, system } = process.cpuUsage();
let sum = 0;
for (let i = 0; i < tensor.rows * tensor.width; i++) sum += tensor.values[i] ?? 0;
console.log(
  JSON.stringify({
    rows: tensor.rows,
    sum,
    wallSeconds,
    cpuSeconds: (user + system) / 1e6,
    peakRssMiB: processMemoryMiB(process.pid, 'VmHWM'),
  }),
);
