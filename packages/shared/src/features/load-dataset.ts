import {
  type CellRequest,
  type DataSource,
  foldName,
  type MemoryBudget,
  memoryBudget,
  openTable,
  pictureChunkRows,
  type TableReader,
} from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { columnBinder } from './bind-columns.js';
import { cellKind, columnEncoder } from './column-encoder.js';
import { encodedWidth } from './column-width.js';
import type { HoldoutRule, LoadedDataset } from './dataset.js';
import { driftMeter, targetMeter } from './drift-meter.js';
import { siteDrift } from './drift-warnings.js';
import type { FeatureSpec } from './feature-spec.js';
import { RowSplitter } from './holdout.js';
import { RowBuffer } from './row-buffer.js';
import { withSiteNames } from './site-names.js';
import { targetEncoder } from './target-cells.js';

export interface LoadOptions {
  /** Rows beyond go to a file without a name. Default: by the memory that is free. */
  readonly memory?: MemoryBudget;
  /** Where that file is. Default: the system's folder for temporary files. */
  readonly folder?: string;
  readonly signal?: AbortSignal;
}

/**
 * Reads a table once and encodes it by the spec alone: the site's own statistics play no part. Rows keep the file's
 * order; a column that the file lacks is imputed; columns that the spec does not know only take part in the row hash.
 *
 * @throws `data_mismatch` where the file lacks the target, every column of the spec or the entity column, or a column
 * of numbers holds something else; `insufficient_storage` where rows fit neither into memory nor on the disk; `insufficient_memory` for too
 * many rows even so; `cancelled`; and as `openTable`.
 */
export async function loadDataset(
  source: DataSource,
  spec: FeatureSpec,
  holdout: HoldoutRule,
  options: LoadOptions = {},
): Promise<LoadedDataset> {
  const memory = options.memory ?? memoryBudget();
  const reader = await openTable(source, memory);
  try {
    return await encodeTable(reader, spec, holdout, { ...options, memory });
  } finally {
    reader.close();
  }
}

/** `loadDataset` for an open table of any reader. What it gives is to be closed. */
export async function encodeTable(
  opened: TableReader,
  spec: FeatureSpec,
  holdout: HoldoutRule,
  options: LoadOptions = {},
): Promise<LoadedDataset> {
  const reader = withSiteNames(
    opened,
    spec.columns.flatMap(({ name, aliases = [] }) => [name, ...aliases]),
  );
  const { path } = reader.source;
  const splitter = new RowSplitter(holdout);
  const plan = planCells(reader, spec, holdout);
  const width = encodedWidth(spec);
  const { rowsBytes } = options.memory ?? memoryBudget();
  const rows = await reader.knownRows?.();
  const largestChunk = plan.picture ? pictureChunkRows(width) : LARGEST_CHUNK_ROWS;
  const bufferFor = (shareRatio: number): RowBuffer =>
    new RowBuffer({
      width,
      path,
      expectedRows: expectedRows(rows, shareRatio, largestChunk),
      memoryBytes: Math.floor(rowsBytes * shareRatio),
      targetBytes: rowsBytes,
      folder: options.folder,
    });
  const train = bufferFor(1 - holdout.shareRatio);
  const heldOut = bufferFor(holdout.shareRatio);
  let droppedRows = 0;
  let chunks = 0;
  let meteredRows = 0;
  try {
    for await (const chunk of reader.stream(plan.cells)) {
      if (options.signal?.aborted === true) throw new OctomilError('cancelled', `reading ${path} was cancelled`);
      const cellsOf = (index: number) => chunk.columns[index] ?? new Float64Array(chunk.rows);
      splitter.start(chunk.rows);
      if (holdout.shareRatio > 0) for (const index of plan.hashed) splitter.add(cellsOf(index), chunk.rows);
      const targets = cellsOf(0);
      await train.begin(chunk.rows);
      if (holdout.shareRatio > 0) await heldOut.begin(chunk.rows);
      const isMetered = chunks < METERED_CHUNKS || chunks % METERED_STEP === 0;
      chunks++;
      if (isMetered) meteredRows += chunk.rows;
      for (let row = 0; row < chunk.rows; row++) {
        const cell = targets[row] ?? Number.NaN;
        const y = plan.target.encode(cell);
        if (isMetered) plan.targetMeter.add(y, plan.target.isMissing(cell));
        if (Number.isNaN(y)) droppedRows++;
        else if (splitter.isHeldOut(row)) heldOut.pick(row, y);
        else train.pick(row, y);
      }
      for (const { encoder, meter, column, index, originIndex, offset } of plan.features) {
        let cells = cellsOf(index ?? -1);
        if (index === undefined) cells.fill(Number.NaN);
        if (encoder.origin !== undefined) {
          const own = cells;
          cells = new Float64Array(2 * chunk.rows).fill(Number.NaN);
          cells.set(own.subarray(0, chunk.rows));
          if (originIndex !== undefined) cells.set(cellsOf(originIndex).subarray(0, chunk.rows), chunk.rows);
        }
        if (isMetered) meter.add(cells, chunk.rows);
        if (!train.encode(encoder, cells, offset) || !heldOut.encode(encoder, cells, offset)) {
          throw new OctomilError(
            'data_mismatch',
            `${path}: the column "${column.name}" is ${column.kind} in the agreed features, but some of its cells are no ${cellKind(column)}; mend them or declare them as missing (missingMarkers)`,
          );
        }
      }
      train.end();
      heldOut.end();
    }
    const drift = siteDrift(spec.hash, meteredRows, [
      ...plan.features.map(({ meter }) => meter.take(meteredRows)),
      plan.targetMeter.take(meteredRows),
    ]);
    return { train: await train.take(), heldOut: await heldOut.take(), droppedRows, drift };
  } catch (error) {
    train.discard();
    heldOut.discard();
    throw error;
  }
}

function planCells(reader: TableReader, spec: FeatureSpec, holdout: HoldoutRule) {
  const { path } = reader.source;
  const keys = new Set(reader.columns.map(({ key }) => key));
  const targetKey = foldName(spec.target.rule.column);
  if (!keys.has(targetKey)) {
    throw new OctomilError(
      'data_mismatch',
      `${path} has no target column "${spec.target.rule.column}"; its columns are ${listNames(reader)}`,
    );
  }
  const target = targetEncoder(spec.target, targetKey, path);
  const cells: CellRequest[] = [target.cell];
  const readAsNumber = new Map<string, number>();
  let offset = 0;
  const bind = columnBinder(reader);
  const features = spec.columns.map((column) => {
    const { key, conversion } = bind(column);
    const encoder = columnEncoder(column, conversion);
    const at = offset;
    offset += encoder.width;
    const index = key === undefined ? undefined : cells.push({ ...encoder.cell, column: key }) - 1;
    const { origin } = encoder;
    const hasOrigin = origin !== undefined && keys.has(origin.column);
    const originIndex = hasOrigin && index !== undefined ? cells.push(origin) - 1 : undefined;
    const plain = column.kind === 'numeric' && column.missingMarkers.every((marker) => typeof marker === 'number');
    if (index !== undefined && key !== undefined && plain) readAsNumber.set(key, index);
    const meter = driftMeter(column, index !== undefined, conversion);
    return { encoder, meter, column, index, originIndex, offset: at };
  });
  if (features.every(({ index }) => index === undefined)) {
    throw new OctomilError(
      'data_mismatch',
      `${path} has none of the agreed columns; its columns are ${listNames(reader)}`,
    );
  }
  const content = (column: string) => readAsNumber.get(column) ?? cells.push({ column, as: 'content' }) - 1;
  const picture = features.some(({ column }) => column.kind === 'image');
  return {
    cells,
    target,
    targetMeter: targetMeter(spec.target),
    features,
    picture,
    hashed: hashedColumns(reader, holdout, keys).map(content),
  };
}

/** The columns that decide the side of a row, in the order of their folded names. */
function hashedColumns(reader: TableReader, holdout: HoldoutRule, keys: ReadonlySet<string>): string[] {
  if (holdout.shareRatio === 0) return [];
  if (holdout.entityColumn === undefined) return [...keys].sort();
  const entity = foldName(holdout.entityColumn);
  if (keys.has(entity)) return [entity];
  throw new OctomilError(
    'data_mismatch',
    `${reader.source.path} has no entity column "${holdout.entityColumn}"; its columns are ${listNames(reader)}`,
  );
}

function listNames(reader: TableReader): string {
  const names = reader.columns.map(({ name }) => name);
  return names.length <= 20 ? names.join(', ') : `${names.slice(0, 20).join(', ')} and ${names.length - 20} more`;
}

/** Room for a share of the rows: five standard deviations of the draw above its mean, and a chunk, which is cut off later. */
function expectedRows(rows: number | undefined, shareRatio: number, largestChunk: number): number {
  if (rows === undefined || shareRatio <= 0) return 0;
  if (shareRatio >= 1) return rows;
  return Math.ceil(rows * shareRatio + 5 * Math.sqrt(rows * shareRatio * (1 - shareRatio))) + largestChunk;
}

const LARGEST_CHUNK_ROWS = 2_048;

/** Drift is measured over so many chunks from the start, about 130,000 rows, and of a longer table over every eighth. */
const METERED_CHUNKS = 64;
const METERED_STEP = 8;
