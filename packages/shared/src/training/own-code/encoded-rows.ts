import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { MemoryBudget } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { Dataset } from '@octomil/shared/features';
import { layoutOf } from '@octomil/shared/tensors';

const ROWS_PER_CHUNK = 2_048;
/** Rows of one row group: what a reader has in memory at a time. */
const ROWS_PER_GROUP = 122_880;

/** Pictures have more: each would be a column. */
const MAX_PARQUET_INPUTS = 10_000;

/** The columns' names in `train.parquet`: the model's inputs in their order, then the target. */
export function columnNames(width: number): string[] {
  return [...Array.from({ length: width }, (_, index) => `x${index}`), 'y'];
}

/** `train.safetensors`: tensor `x` of shape [rows, width] and `y` of shape [rows]. For programs without a Parquet reader. */
export async function writeRowsAsTensors(path: string, data: Dataset): Promise<void> {
  const { rows, width, y } = data;
  const { headerBytes } = layoutOf([
    { name: 'x', shape: [rows, width] },
    { name: 'y', shape: [rows] },
  ]);
  async function* parts(): AsyncGenerator<Uint8Array> {
    yield headerBytes;
    for (let start = 0; start < rows; start += ROWS_PER_CHUNK) {
      yield bytesOf(await data.readRange(start, Math.min(start + ROWS_PER_CHUNK, rows)));
    }
    yield bytesOf(y);
  }
  await writeFile(path, parts(), { mode: 0o600 });
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** `train.parquet`: one FLOAT column per input and one for the target, none with missing values. */
export async function writeRowsAsParquet(
  path: string,
  folder: string,
  data: Dataset,
  memory: MemoryBudget,
): Promise<void> {
  const { DuckDBDataChunk, DuckDBInstance, FLOAT } = await import('@duckdb/node-api');
  if (data.width > MAX_PARQUET_INPUTS) {
    throw new OctomilError(
      'invalid_input',
      `the model has ${data.width} inputs, and Parquet files of more than ${MAX_PARQUET_INPUTS} columns are not written; set data: safetensors for this trainer`,
    );
  }
  const names = columnNames(data.width);
  const instance = await DuckDBInstance.create(':memory:', {
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
    threads: '1',
    memory_limit: `${memory.readerBytes}B`,
    // What does not fit goes to the run's own folder, which is removed with it.
    temp_directory: join(folder, 'spill'),
  });
  try {
    const connection = await instance.connect();
    try {
      await connection.run(`CREATE TABLE rows (${names.map((name) => `${name} FLOAT`).join(', ')})`);
      const appender = await connection.createAppender('rows');
      for (let start = 0; start < data.rows; start += ROWS_PER_CHUNK) {
        const count = Math.min(ROWS_PER_CHUNK, data.rows - start);
        const chunk = DuckDBDataChunk.create(
          names.map(() => FLOAT),
          count,
        );
        const x = await data.readRange(start, start + count);
        for (let column = 0; column < data.width; column++)
          chunk.setColumnValues(column, inputs(x, data.width, column, count));
        chunk.setColumnValues(data.width, Array.from(data.y.subarray(start, start + count)));
        appender.appendDataChunk(chunk);
        appender.flushSync();
      }
      appender.closeSync();
      const to = path.replaceAll("'", "''");
      await connection.run(`COPY rows TO '${to}' (FORMAT parquet, ROW_GROUP_SIZE ${ROWS_PER_GROUP})`);
    } finally {
      connection.closeSync();
    }
  } finally {
    instance.closeSync();
  }
}

function inputs(x: Float32Array, width: number, column: number, count: number): number[] {
  return Array.from({ length: count }, (_, row) => x[row * width + column] ?? 0);
}
