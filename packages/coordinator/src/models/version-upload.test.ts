import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { FileObjectStore } from '@octomil/shared/storage';
import type { Registry } from './registry.js';
import { VersionUploads } from './version-upload.js';

test('a document that is far too large is refused by its size, and not read', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-uploads-'));
  const objects = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
  try {
    const uploads = new VersionUploads({
      registry: {} as Registry,
      objects,
      clock: systemClock,
      signingSecret: async () => 'secret',
    });
    const { storageKey } = await uploads.begin('key', 'model', '1.0.0', 'model.json');
    // Larger than what one buffer can hold; it takes no room on the disk.
    const sizeBytes = 8 * 1024 ** 3;
    const path = join(folder, 'huge.json');
    const file = await open(path, 'w');
    await file.truncate(sizeBytes);
    await file.close();
    await objects.putFile(storageKey, path);
    const confirmed = uploads.confirm('model', { version: '1.0.0', storageKey, sizeBytes, description: '' });
    await expect(confirmed).rejects.toMatchObject({ code: 'too_large' });
    expect(await objects.stat(storageKey)).toBeUndefined();
  } finally {
    await objects.close();
    await rm(folder, { recursive: true });
  }
});
