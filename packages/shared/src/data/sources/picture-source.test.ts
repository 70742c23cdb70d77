import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { openBucket, parseBucketUrl } from '@octomil/shared/storage';
import { openTable } from '../open-table.js';
import { greyPng, writeFiles } from '../pictures/testing/pictures.js';
import type { DataSource } from '../source.js';
import { openSource } from './open-source.js';
import { pictureName, pictureOptions } from './picture-source.js';
import { SourceFiles } from './source-files.js';
import { TemporaryCopies } from './temporary-copies.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-picture-source-'));
});
afterEach(() => rm(folder, { recursive: true }));

const PICTURES = {
  'xray/labels.csv': 'image,label\nnorth/a.png,ill\nnorth/b.png,well\n',
  'xray/other.csv': 'x\n1\n',
  'xray/notes.md': 'x',
  'xray/north/a.png': greyPng(51),
  'xray/north/b.png': greyPng(102),
};
const IMAGE = { column: 'image', as: 'image', height: 1, width: 1, channels: 1 } as const;
const LABEL = { column: 'label', as: 'level', levels: ['ill', 'well'] } as const;

async function rowsOf(source: DataSource): Promise<number[][]> {
  const reader = await openTable(source);
  try {
    const rows: number[][] = [];
    for await (const { rows: count, columns } of reader.stream([LABEL, IMAGE])) {
      for (let row = 0; row < count; row++) rows.push(columns.map((one) => Number((one[row] ?? 0).toFixed(3))));
    }
    return rows;
  } finally {
    reader.close();
  }
}

const EXPECTED = [
  [0, 0.2],
  [1, 0.4],
];

test('what lies below a prefix is taken as pictures and their labels, under names relative to it', async () => {
  await writeFiles(folder, PICTURES);
  const url = `${folder}/xray/`;
  const copies = await TemporaryCopies.open({ folder: join(folder, 'copies'), maxBytes: 1e6, clock: systemClock });
  const options = { environment: {}, clock: systemClock };
  const opened = await openSource(url, copies, { ...options, ...pictureOptions({ path: url, images: {} }, url, {}) });
  const names = opened.files.map((file) => pictureName(url, file));
  expect(names).toEqual(['labels.csv', 'north/a.png', 'north/b.png']);
  // As a source of copies is: names of files say nothing, what they are called says all.
  const files = opened.files.map(({ path }) => path);
  expect(await rowsOf({ path: 's3://bucket/xray/', files, fileNames: names, images: {} })).toEqual(EXPECTED);
  const classes = names.map((name, i) => [name, files[i] ?? ''] as const).filter(([name]) => name.endsWith('png'));
  const byClass = { fileNames: ['ill/1.png', 'well/2.png'], files: classes.map(([, path]) => path) };
  expect(await rowsOf({ path: 's3://bucket/xray/', ...byClass, images: {} })).toEqual(EXPECTED);
  const escaping = { ...byClass, fileNames: ['../1.png', 'well/2.png'] };
  await expect(openTable({ path: 's3://bucket/xray/', ...escaping, images: {} })).rejects.toThrow('is outside');
  await opened.release();
  await copies.close();
});

const bucketUrl = process.env['TEST_S3_URL'] ?? '';
(bucketUrl === '' ? test.skip : test)(
  'pictures in a bucket are read like those of a folder (TEST_S3_URL of scripts/with-clouds.js)',
  async () => {
    await writeFiles(folder, PICTURES);
    const address = parseBucketUrl(bucketUrl)?.address;
    if (address === undefined) throw new TypeError('no bucket');
    const prefix = `pictures-${randomUUID()}`;
    const bucket = await openBucket(address, { environment: process.env, purpose: 'store' });
    for (const name of Object.keys(PICTURES)) await bucket.put(`${prefix}/${name}`, await readFile(join(folder, name)));
    await bucket.close();
    const copies = { folder: join(folder, 'copies'), maxBytes: 1e6, environment: process.env, clock: systemClock };
    const files = await SourceFiles.open(copies);
    const source = { path: `${bucketUrl}/${prefix}/xray/`, images: {} };
    const version = await files.version(source);
    const { source: local, release } = await files.acquire(source);
    expect(await rowsOf(local)).toEqual(EXPECTED);
    expect(await files.version(source)).toBe(version);
    await release();
    await files.close();
  },
);
