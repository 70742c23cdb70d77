/** Training code of a site's own, as its administrator configured it. Never sent by anybody. JSON-able. */
export interface OwnCode {
  /** What sessions call it. `tfjs`: in place of the built-in trainer. */
  readonly name: string;
  /** Program and arguments, no shell. Exactly one of `command` and `module` is given. */
  readonly command?: readonly string[];
  /** Node module that exports `train`. */
  readonly module?: string;
  /** Absolute. Files that `command` and `module` name are looked for here. */
  readonly root: string;
  /** Whether everything under `root` belongs to the code, not only the files that are named. */
  readonly wholeFolder: boolean;
  /** How the rows are handed over. `path`: the site's own file, not encoded. */
  readonly data: 'parquet' | 'safetensors' | 'path';
  readonly limits: OwnCodeLimits;
  /** Names of environment variables that are passed on; all others are not. */
  readonly environment: readonly string[];
}

export interface OwnCodeLimits {
  readonly timeoutMs: number;
  /** Resident memory of all its processes together. */
  readonly memoryMb: number;
  /** What it may write into its folder. */
  readonly maxOutputMb: number;
  /** Share of this machine's processors, 1 to 100; undefined: all. Whole processors, so rounded up. */
  readonly cpuPercent?: number;
}

export const DEFAULT_OWN_CODE_LIMITS: OwnCodeLimits = { timeoutMs: 3_600_000, memoryMb: 4_096, maxOutputMb: 4_096 };

/** Names that sessions may ask for. */
export const TRAINER_NAME_PATTERN = '^[a-z][a-z0-9-]{0,62}$';
