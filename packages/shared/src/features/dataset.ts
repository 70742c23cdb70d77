/** Encoded rows, row-major. */
export interface Dataset {
  readonly rows: number;
  /** Inputs per row. */
  readonly width: number;
  /** rows × width. */
  readonly x: Float32Array;
  /** One number per row: 0 or 1, the class index, or the scaled number. */
  readonly y: Float32Array;
}

/** Which rows are kept from training, by a salted hash: the same rows each time, whatever their order in the file. */
export interface HoldoutRule {
  readonly salt: string;
  /** 0 to 1: the share of rows (or entities) held out. */
  readonly shareRatio: number;
  /** All rows of one entity (a patient) land on the same side. Default: the row's whole content decides. */
  readonly entityColumn?: string;
}

export interface LoadedDataset {
  readonly train: Dataset;
  readonly heldOut: Dataset;
  /** Rows without a target, or with one that is no class of the spec. */
  readonly droppedRows: number;
}
