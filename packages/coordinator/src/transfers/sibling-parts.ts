import { open } from 'node:fs/promises';
import { toOctomilError } from '@octomil/shared/errors';
import { partRange } from './part-layout.js';
import { readReceivedParts, uploadPaths } from './received-parts.js';
import type { StagedUpload } from './staged-upload.js';

const COPY_BYTES = 1024 * 1024;

/**
 * Parts of an upload that reached other coordinators on this staging root: a balancer may send every part elsewhere, and
 * a coordinator may have died. Part → folder that has it; parts that are here already are left out.
 */
export async function siblingParts(
  upload: StagedUpload,
  ticketId: string,
  folders: readonly string[],
): Promise<Map<number, string>> {
  const here = new Set(upload.received);
  const found = new Map<number, string>();
  for (const folder of folders) {
    if (here.size + found.size >= upload.layout.partCount) break;
    for (const index of await readReceivedParts(folder, ticketId, upload.layout)) {
      if (!here.has(index)) found.set(index, folder);
    }
  }
  return found;
}

/** Copies such parts here. One that goes away meanwhile stays missing. */
export async function gatherParts(upload: StagedUpload, ticketId: string, folders: readonly string[]): Promise<void> {
  for (const [index, folder] of await siblingParts(upload, ticketId, folders)) {
    const sink = await upload.beginPart(index);
    if (sink === undefined) continue;
    try {
      const file = await open(uploadPaths(folder, ticketId).dataPath, 'r');
      try {
        const { start, end } = partRange(upload.layout, index);
        for (let position = start; position < end; ) {
          const buffer = Buffer.allocUnsafe(Math.min(COPY_BYTES, end - position));
          const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
          if (bytesRead === 0) break;
          await sink.write(buffer.subarray(0, bytesRead));
          position += bytesRead;
        }
      } finally {
        await file.close();
      }
      await sink.commit();
    } catch (error) {
      await sink.abort(toOctomilError(error));
    }
  }
}
