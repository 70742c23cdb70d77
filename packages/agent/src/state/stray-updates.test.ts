import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import type { PendingUpload } from './journal.js';
import { removeStrayUpdates } from './stray-updates.js';

test('an update that waits to be sent stays; one of a killed agent goes, whole or half-made', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-updates-'));
  try {
    for (const name of ['a.1.safetensors', 'b.1.safetensors', 'b.2.safetensors.partial']) {
      await writeFile(join(folder, name), 'weights');
    }
    // The state folder may have been moved since.
    const waiting = { path: '/elsewhere/updates/a.1.safetensors' } as PendingUpload;
    await removeStrayUpdates(folder, { pendingUploads: () => [waiting] });
    expect(await readdir(folder)).toEqual(['a.1.safetensors']);
  } finally {
    await rm(folder, { recursive: true });
  }
});
