import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { PartLayout } from './part-layout.js';

/** Where the bytes of an upload lie in a slot of the staging folder, and the list of its whole parts. */
export function uploadPaths(folder: string, ticketId: string): { dataPath: string; partsPath: string } {
  return { dataPath: join(folder, `${ticketId}.data`), partsPath: join(folder, `${ticketId}.parts`) };
}

/**
 * The parts that arrived whole, by the list in this folder. None where the bytes are gone: a process that was killed
 * after it had handed the file over leaves a list without them.
 */
export async function readReceivedParts(folder: string, ticketId: string, layout: PartLayout): Promise<Set<number>> {
  const { dataPath, partsPath } = uploadPaths(folder, ticketId);
  const list = await readFile(partsPath, 'utf8').catch(() => '');
  if (list === '') return new Set();
  const data = await stat(dataPath).catch(() => undefined);
  if (data?.size !== layout.sizeBytes) return new Set();
  // A line without its end was cut off by a crash.
  const lines = list.split('\n').slice(0, -1);
  return new Set(lines.map(Number).filter((index) => index >= 0 && index < layout.partCount));
}
