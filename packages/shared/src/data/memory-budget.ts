/** How the memory of a process that trains is divided. */
export interface MemoryBudget {
  /** Encoded rows that stay in memory; what is beyond goes to a file. */
  readonly rowsBytes: number;
  /** What the reader of tables may take. */
  readonly readerBytes: number;
}

const MIB = 1_048_576;
/** Node, tfjs with its kernels and DuckDB, before they hold any data. */
const PROGRAM_BYTES = 384 * MIB;
const MIN_ROWS_BYTES = 16 * MIB;
const MIN_READER_BYTES = 128 * MIB;
const MAX_READER_BYTES = 1_024 * MIB;
/** Without a limit: of the memory that is free now, which others want as well. */
const SHARE_OF_FREE = 0.5;

/**
 * Half of what the programs leave is for rows, half for reading, and when all is read for the model and its batches.
 *
 * @param limitBytes resident memory that the process may take. Default: half of the memory that is available to it now.
 */
export function memoryBudget(limitBytes: number = process.availableMemory() * SHARE_OF_FREE): MemoryBudget {
  const usable = Math.max(limitBytes - PROGRAM_BYTES, limitBytes / 8);
  return {
    rowsBytes: Math.max(MIN_ROWS_BYTES, Math.floor(usable / 2)),
    readerBytes: Math.min(MAX_READER_BYTES, Math.max(MIN_READER_BYTES, Math.floor(usable / 2))),
  };
}
