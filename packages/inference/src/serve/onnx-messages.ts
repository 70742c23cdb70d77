export interface ToOnnx {
  readonly id: number;
  readonly path: string;
  readonly rows: Float32Array;
  /** [rows, …input shape]. */
  readonly shape: readonly number[];
}

export type FromOnnx =
  | { readonly id: number; readonly outputs: Readonly<Record<string, Float32Array>> }
  /** `missing`: onnxruntime-node is not there, or not for this machine. */
  | { readonly id: number; readonly failure: string; readonly missing: boolean };
