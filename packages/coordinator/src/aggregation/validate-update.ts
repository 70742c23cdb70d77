import { createFoldKernel, type FoldKernel, kernelMemoryBytes } from '@octomil/shared/compute';
import { type ParameterLayout, parseLayout } from '@octomil/shared/tensors';
import type { UpdateMeasure, ValidationJob } from './aggregation-job.js';
import { ReadAhead } from './read-ahead.js';
import { asRejection, nonFiniteRejection, rejectCorrupt, requireSameLayout } from './update-rejection.js';
import { WeightsSource } from './weights-source.js';

/** Parameters looked at in one piece; a multiple of 4, so that the norm does not depend on it. */
const PIECE_PARAMS = 131_072;
const PIECES = 3;

/**
 * Checks an update in a file before it counts: that it is whole, has the base's names and shapes, and holds finite numbers
 * only. Reads piece by piece: about 2 MiB of memory whatever its size.
 *
 * @throws `update_rejected` naming what is wrong and where; `cancelled` by the signal
 */
export async function validateUpdate(job: ValidationJob, signal?: AbortSignal): Promise<UpdateMeasure> {
  const source = await rejectCorrupt(() => WeightsSource.open(job.path));
  const { layout } = source;
  let reads: ReadAhead | undefined;
  try {
    requireSameLayout(job.layout, layout);
    const pieceParams = Math.max(4, Math.min(PIECE_PARAMS, layout.totalParams));
    const memoryBytes = kernelMemoryBytes(Array.from({ length: PIECES }, () => pieceParams * 4));
    const kernel = createFoldKernel({ memoryBytes });
    const buffers = Array.from({ length: PIECES }, () => kernel.float32(pieceParams));
    reads = new ReadAhead(
      starts(layout.totalParams, pieceParams).map((start) =>
        source.request(start, Math.min(pieceParams, layout.totalParams - start)),
      ),
      buffers,
    );
    kernel.resetMeasure();
    let before = 0;
    for (const start of starts(layout.totalParams, pieceParams)) {
      signal?.throwIfAborted();
      const { values, release } = await reads.take();
      before += measurePiece(kernel, layout, values, { start, measuredFrom: job.measuredFrom ?? 0 });
      release();
    }
    return figures(kernel, layout, before);
  } catch (error) {
    throw asRejection(error);
  } finally {
    await reads?.drain();
    source.close();
  }
}

let small: { kernel: FoldKernel; piece: Float32Array<ArrayBuffer> } | undefined;

/**
 * Checks an update that is in memory already, at once: for the few MiB that come with a message.
 *
 * @throws `update_rejected` naming what is wrong and where
 */
export function validateUpdateBytes(bytes: Uint8Array, layout: ParameterLayout, measuredFrom = 0): UpdateMeasure {
  let data: Uint8Array;
  try {
    // Also checks that the bytes end where the header says.
    const received = parseLayout(bytes);
    requireSameLayout(layout, received);
    data = bytes.subarray(received.headerBytes.length);
  } catch (error) {
    throw asRejection(error);
  }
  small ??= smallKernel();
  const { kernel, piece } = small;
  // Copied as bytes: in a message they are seldom aligned, and a view of numbers would need a copy of its own.
  const pieceBytes = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
  kernel.resetMeasure();
  let before = 0;
  for (let start = 0; start < layout.totalParams; start += PIECE_PARAMS) {
    const length = Math.min(PIECE_PARAMS, layout.totalParams - start);
    pieceBytes.set(data.subarray(start * 4, (start + length) * 4));
    before += measurePiece(kernel, layout, piece.subarray(0, length), { start, measuredFrom });
  }
  return { ...figures(kernel, layout, before), sizeBytes: bytes.length };
}

function smallKernel(): { kernel: FoldKernel; piece: Float32Array<ArrayBuffer> } {
  const kernel = createFoldKernel({ memoryBytes: PIECE_PARAMS * 4 });
  return { kernel, piece: kernel.float32(PIECE_PARAMS) };
}

/**
 * Pieces come in order, so that what lies before `measuredFrom` is measured by itself. It may end within a piece.
 *
 * @returns its sum of squares
 */
function measurePiece(
  kernel: FoldKernel,
  layout: ParameterLayout,
  values: Float32Array,
  { start, measuredFrom }: { readonly start: number; readonly measuredFrom: number },
): number {
  const before = Math.max(0, Math.min(values.length, measuredFrom - start));
  let sumOfSquares = 0;
  if (before > 0) {
    kernel.measure(values.subarray(0, before));
    const measured = kernel.measured();
    if (!measured.finite) throw nonFiniteRejection(layout, values, start);
    ({ sumOfSquares } = measured);
    kernel.resetMeasure();
  }
  kernel.measure(values.subarray(before));
  if (!kernel.measured().finite) throw nonFiniteRejection(layout, values, start);
  return sumOfSquares;
}

function figures(kernel: FoldKernel, layout: ParameterLayout, squaresBefore: number): UpdateMeasure {
  const { sumOfSquares, maxAbs } = kernel.measured();
  return {
    normL2: Math.sqrt(sumOfSquares),
    controlNormL2: Math.sqrt(squaresBefore),
    maxAbs,
    sizeBytes: layout.headerBytes.length + layout.totalParams * 4,
  };
}

function starts(totalParams: number, pieceParams: number): number[] {
  return Array.from({ length: Math.ceil(totalParams / pieceParams) }, (_, piece) => piece * pieceParams);
}
