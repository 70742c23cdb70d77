import { randomBytes } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import { ArtifactObjects } from './artifact-objects.js';
import { formatOf, keyWord, parseFormats, plainFileName } from './file-formats.js';
import type { Registry } from './registry.js';
import { SignedAddresses } from './signed-address.js';
import { unstalled } from './unstalled.js';
import { layoutOf, parsePlan } from './upload-parts.js';
import { VersionUploads } from './version-upload.js';

test('a document that is far too large is refused by its size, and not read', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-uploads-'));
  const objects = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
  try {
    const uploads = new VersionUploads({
      registry: {
        versions: { ofUpload: async () => undefined, refuseClosed: async () => undefined },
      } as unknown as Registry,
      objects,
      clock: systemClock,
      artifacts: new ArtifactObjects({
        database: {} as Database,
        objects,
        clock: systemClock,
        logger: silentLogger,
      }),
      addresses: new SignedAddresses({ purpose: 'upload', clock: systemClock, signingSecret: async () => 'secret' }),
    });
    const version = '1.0.0';
    const { storageKey } = await uploads.begin('key', 'model', { version, fileName: 'model.json' });
    // Larger than what one buffer can hold; it takes no room on the disk.
    const sizeBytes = 8 * 1024 ** 3;
    const path = join(folder, 'huge.json');
    const file = await open(path, 'w');
    await file.truncate(sizeBytes);
    await file.close();
    await objects.putFile(storageKey, path);
    const fields = { version, description: '', formats: [], createdBy: 'key:test' };
    const confirmed = uploads.confirm('model', { ...fields, storageKey, sizeBytes });
    await expect(confirmed).rejects.toMatchObject({ code: 'too_large' });
    expect(await objects.stat(storageKey)).toBeUndefined();
  } finally {
    await objects.close();
    await rm(folder, { recursive: true });
  }
});

test('addresses of one purpose, key or time are none for another', async () => {
  let now = 0;
  const clock = { ...systemClock, now: () => now };
  const secrets = new Map([['key', 'secret']]);
  const signingSecret = async (keyId: string) => secrets.get(keyId);
  const uploads = new SignedAddresses({ purpose: 'upload', clock, signingSecret });
  const downloads = new SignedAddresses({ purpose: 'download', clock, signingSecret });
  const { token } = await uploads.sign('key', 'subject', 1000);
  expect(await uploads.verify(token)).toEqual({ keyId: 'key', subject: 'subject', expiresAtMs: 1000 });
  await expect(downloads.verify(token)).rejects.toMatchObject({ code: 'ticket_invalid' });
  for (const forged of [
    '',
    '.',
    `${token}x`,
    `x${token}`,
    token.split('.')[0] ?? '',
    randomBytes(40).toString('hex'),
  ]) {
    await expect(uploads.verify(forged)).rejects.toMatchObject({ code: 'ticket_invalid' });
  }
  now = 1001;
  await expect(uploads.verify(token)).rejects.toMatchObject({ code: 'ticket_expired' });
  now = 0;
  secrets.delete('key');
  await expect(uploads.verify(token)).rejects.toMatchObject({ code: 'ticket_invalid' });
});

test('file names become formats, names and key words', () => {
  expect(['a.PT', 'b.h5', 'c.pkl', 'd.onnx', 'e', 'f.Xyz'].map(formatOf)).toEqual([
    'pytorch',
    'tensorflow',
    'sklearn',
    'onnx',
    'original',
    'xyz',
  ]);
  expect(parseFormats(' ONNX,tflite, ,onnx')).toEqual(['onnx', 'tflite']);
  expect(() => parseFormats('a b')).toThrow('format');
  expect(plainFileName('C:\\models\\Größe "1"\u0000.pt')).toBe('Größe 1.pt');
  expect(plainFileName('../..')).toBe('file');
  expect(plainFileName(`${'x'.repeat(300)}😀${'y'.repeat(199)}`)).toBe('y'.repeat(199));
  expect(keyWord('.plan')).toBe('plan');
  expect(keyWord('Größe.pt')).toBe('Gr__e.pt');
});

test('parts cover a file exactly', () => {
  const plan = parsePlan({ sizeBytes: 200_000, partSizeBytes: 65_536 }, 'file', 1e9);
  const { partCount, bytesOf } = layoutOf(plan);
  expect(Array.from({ length: partCount }, (_, index) => bytesOf(index + 1))).toEqual([65_536, 65_536, 65_536, 3_392]);
  expect(() => parsePlan({ sizeBytes: 10, partSizeBytes: 1 }, 'file', 1e9)).toThrow('part_size_bytes');
  expect(() => parsePlan({ partSizeBytes: 65_536 }, 'file', 1e9)).toThrow('size_bytes');
  expect(() => parsePlan({ sizeBytes: 1e9 + 1 }, 'file', 1e9)).toThrow('1000000001');
});

test('an upload that stalls is given up', async () => {
  const timers = new Set<() => void>();
  const clock = {
    ...systemClock,
    after: (_delayMs: number, callback: () => void) => {
      timers.add(callback);
      return () => timers.delete(callback);
    },
  };
  async function* source() {
    yield Buffer.from('abc');
    yield Buffer.from('def');
    await new Promise(() => undefined);
  }
  const chunks = unstalled(source(), clock, 1000);
  expect((await chunks.next()).value).toEqual(Buffer.from('abc'));
  expect((await chunks.next()).value).toEqual(Buffer.from('def'));
  expect(timers.size).toBe(0);
  const third = chunks.next();
  for (const expire of timers) expire();
  await expect(third).rejects.toMatchObject({ code: 'request_timeout' });
});
