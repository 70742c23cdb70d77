import { open } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { type ParameterLayout, readLayout } from '@octomil/shared/tensors';
import { throwIfCancelled } from './cancellation.js';
import type { EchoTrainTask, TrainResult } from './task.js';
import { writeUpdate } from './update-file.js';

const CHUNK_BYTES = 4 * 1024 * 1024;
/** What is added to each changed number: a power of two, so that it is exact for usual weights. */
const CHANGE = 2 ** -10;
/** Numbers changed when the base is a single tensor. */
const CHANGED_OF_SINGLE = 256;

/**
 * Returns the base with its smallest tensor raised by 2⁻¹⁰ (of a single tensor: its first 256 numbers), without data and
 * without tfjs. Streams: its memory does not depend on the base's size.
 *
 * @throws OctomilError `corrupt_file` when the base is no weights file, `cancelled`
 */
export async function echo(task: EchoTrainTask, signal?: AbortSignal): Promise<TrainResult> {
  const layout = await readLayout(task.basePath);
  const region = changedRegion(layout);
  const headerBytes = layout.headerBytes.length;
  const totalBytes = headerBytes + layout.totalParams * 4;
  const base = task.updateFormat === 'weights' ? await open(task.basePath, 'r') : undefined;
  try {
    const update = await writeUpdate(task.outputPath, async (writer) => {
      await writer.write(layout.headerBytes);
      const numbers = new Float32Array(Math.min(CHUNK_BYTES / 4, layout.totalParams));
      for (let position = headerBytes; position < totalBytes; position += CHUNK_BYTES) {
        throwIfCancelled(signal);
        const chunk = numbers.subarray(0, Math.min(CHUNK_BYTES, totalBytes - position) / 4);
        const bytes = new Uint8Array(chunk.buffer, 0, chunk.byteLength);
        if (base === undefined) chunk.fill(0);
        else await readAll(base, bytes, position);
        const first = (position - headerBytes) / 4;
        const end = Math.min(region.end - first, chunk.length);
        for (let index = Math.max(region.start - first, 0); index < end; index++) {
          chunk[index] = (chunk[index] ?? 0) + CHANGE;
        }
        await writer.write(bytes);
      }
    });
    return { sampleCount: task.sampleCount ?? 1, trainLoss: null, evaluation: null, update, backend: 'echo', steps: 0 };
  } finally {
    await base?.close();
  }
}

/** Elements of the flat vector. */
function changedRegion(layout: ParameterLayout): { start: number; end: number } {
  const filled = layout.tensors.filter((tensor) => tensor.size > 0);
  const [first, ...others] = filled;
  if (first === undefined) return { start: 0, end: 0 };
  const smallest = others.reduce((least, tensor) => (tensor.size < least.size ? tensor : least), first);
  const size = others.length === 0 ? Math.min(first.size, CHANGED_OF_SINGLE) : smallest.size;
  return { start: smallest.offset, end: smallest.offset + size };
}

async function readAll(file: Awaited<ReturnType<typeof open>>, into: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new OctomilError('corrupt_file', `the base ends at byte ${position + done}`);
    done += bytesRead;
  }
}
