import { mkdir, mkdtemp, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import jpeg from 'jpeg-js';
import { digestOf } from '../digest.js';
import { formatOf } from '../locate.js';
import { openTable } from '../open-table.js';
import type { DataSource } from '../source.js';
import type { CellRequest } from '../table-reader.js';
import { locateData } from './locate-data.js';
import { isPictureFolder } from './locate-pictures.js';
import { namedPicture, withoutPictureNames } from './picture-names.js';
import { pictureChunkRows } from './picture-reader.js';
import { greyPng, pngOf, writeFiles } from './testing/pictures.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-pictures-'));
});
afterEach(() => rm(folder, { recursive: true }));

const SHAPE = { height: 2, width: 2, channels: 1 } as const;
const IMAGE: CellRequest = { column: 'image', as: 'image', ...SHAPE };
const CONTENT: CellRequest = { column: 'image', as: 'content' };
const levelOf = (levels: readonly string[]): CellRequest => ({ column: 'label', as: 'level', levels });

/** Each row's cells, one after the other, to three digits. */
async function rowsOf(source: DataSource, cells: readonly CellRequest[], memory?: { readerBytes: number }) {
  const reader = await openTable(source, memory === undefined ? undefined : { rowsBytes: 1e6, ...memory });
  try {
    const rows: number[][] = [];
    const none = new Float64Array(0);
    for await (const chunk of reader.stream(cells)) {
      for (let row = 0; row < chunk.rows; row++) {
        rows.push(
          cells.flatMap((cell, i) => {
            const size = cell.as === 'image' ? cell.height * cell.width * cell.channels : 1;
            return [...(chunk.columns[i] ?? none).subarray(row * size, (row + 1) * size)].map((value) =>
              cell.as === 'image' ? Number(value.toFixed(3)) : value,
            );
          }),
        );
      }
    }
    return rows;
  } finally {
    reader.close();
  }
}

const flat = (level: number): number[] => Array<number>(4).fill(Number((level / 255).toFixed(3)));
const classes = { path: '', images: {} };
const source = (images: DataSource['images'] = {}): DataSource => ({ ...classes, path: folder, images });

test('a folder for each class: label and pixels of every picture, in the order of their names', async () => {
  await writeFiles(folder, {
    'Pneumonia/b.png': greyPng(200),
    'Pneumonia/deep/a.PNG': greyPng(100),
    'normal/c.jpg': jpeg.encode({ width: 4, height: 4, data: Buffer.alloc(64, 50) }, 100).data,
    'normal/.hidden.png': 'x',
    'normal/notes.txt': 'x',
    '_work/d.png': 'x',
  });
  await mkdir(join(folder, 'empty'));
  expect(formatOf(source())).toBe('images');
  const reader = await openTable(source());
  expect(reader.columns).toEqual([
    { name: 'image', key: 'image', family: 'image' },
    { name: 'label', key: 'label', family: 'text' },
  ]);
  expect(await reader.countRows()).toBe(3);
  const profiles = await reader.profile({ columns: ['label', 'image'], maxLevels: 32, missingMarkers: new Map() });
  expect(profiles.map(({ key, present }) => [key, present])).toEqual([
    ['label', 3],
    ['image', 3],
  ]);
  expect(profiles[0]?.levels?.map(({ value, count }) => [value, count]).sort()).toEqual([
    ['normal', 1],
    ['pneumonia', 2],
  ]);
  reader.close();
  const rows = await rowsOf(source(), [levelOf(['normal', 'pneumonia']), IMAGE]);
  expect(rows.map(([label]) => label)).toEqual([1, 1, 0]);
  expect(rows[0]?.slice(1)).toEqual(flat(200));
  expect(rows[1]?.slice(1)).toEqual(flat(100));
  for (const value of rows[2]?.slice(1) ?? []) expect(Math.abs(value - 50 / 255)).toBeLessThan(0.03);
});

test('a table of labels: its columns, and pictures by their paths; rows without one are left out', async () => {
  await writeFiles(folder, {
    'labels.csv': 'file_name,label,age\nscans/b.png,ill,70\n./a.png,well,30\n,ill,40\nscans\\c.jpeg,well,50\n',
    'a.png': greyPng(10),
    'scans/b.png': greyPng(20),
    // A name says nothing of what is inside.
    'scans/c.jpeg': greyPng(30),
    'unnamed.png': greyPng(99),
  });
  const age: CellRequest = { column: 'age', as: 'number' };
  const expected = [
    [70, 1, ...flat(20)],
    [30, 0, ...flat(10)],
    [50, 0, ...flat(30)],
  ];
  const cells = [age, levelOf(['well', 'ill']), IMAGE];
  expect(await rowsOf(source(), cells)).toEqual(expected);
  expect(await rowsOf({ path: join(folder, 'labels.csv'), images: {} }, cells)).toEqual(expected);
  await rename(join(folder, 'labels.csv'), join(folder, 'who.csv'));
  expect(await rowsOf(source({ labels: 'who.csv', column: 'File Name' }), cells)).toEqual(expected);
  const reader = await openTable(source({ labels: 'who.csv' }));
  expect(reader.columns.map(({ name }) => name)).toEqual(['image', 'label', 'age']);
  expect(await reader.countRows()).toBe(4);
  reader.close();
  // Where no pictures are asked for, every row counts.
  expect(await rowsOf(source({ labels: 'who.csv' }), [age])).toEqual([[70], [30], [40], [50]]);
});

test('Parquet with encoded pictures, as bytes and as structs, gives what the same files give', async () => {
  await writeFiles(folder, { 'in/n/a.png': greyPng(10), 'in/n/b.png': greyPng(60), 'in/p/c.png': greyPng(90) });
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  const rows = `(SELECT content, split_part(filename, '/', -2) AS label, filename FROM read_blob('${folder}/in/*/*.png') ORDER BY filename)`;
  const write = (select: string, name: string) =>
    connection.run(`COPY (SELECT ${select}, label FROM ${rows}) TO '${join(folder, name)}' (FORMAT parquet)`);
  await mkdir(join(folder, 'one'));
  await write('content AS scan', 'one/x.parquet');
  await write("{'bytes': content, 'path': filename} AS image", 'struct.parquet');
  await write('1 AS image', 'numbers.parquet');
  await write('content AS scan, 1 AS image', 'both.parquet');
  connection.closeSync();
  const cells = [levelOf(['n', 'p']), IMAGE, CONTENT];
  const expected = await rowsOf({ path: join(folder, 'in'), images: {} }, cells);
  expect(expected.map((row) => row.slice(0, 2))).toEqual([
    [0, flat(10)[0]],
    [0, flat(60)[0]],
    [1, flat(90)[0]],
  ]);
  expect(await rowsOf({ path: join(folder, 'one'), images: { column: 'scan' } }, cells)).toEqual(expected);
  expect(await rowsOf({ path: join(folder, 'struct.parquet'), images: {} }, cells)).toEqual(expected);
  const open = (name: string, images: DataSource['images'] = {}) => openTable({ path: join(folder, name), images });
  await expect(open('one/x.parquet')).rejects.toThrow('no column of pictures (image); its columns are scan, label');
  await expect(open('numbers.parquet')).rejects.toThrow('the column "image" holds no encoded pictures');
  await expect(open('both.parquet', { column: 'scan' })).rejects.toThrow('a column "image" besides');
});

test.each([
  ['no pictures', { 'a.csv': 'a\n1' }, {}, 'has no pictures'],
  ['loose pictures', { 'a/b.png': 'x', 'c.png': 'x' }, {}, 'the picture "c.png" is in no folder of a class'],
  ['a table that is not there', { 'a.png': 'x' }, { labels: 'who.csv' }, 'has no table "who.csv"'],
  ['a table elsewhere', { 'a.png': 'x' }, { labels: '../who.csv' }, 'the table of labels is outside'],
  ['a path upwards', { 'a.png': 'x', 'labels.csv': 'image,label\nb/../../a.png,1\n' }, {}, 'outside of its folder'],
  ['an absolute path', { 'a.png': 'x', 'labels.csv': 'image,label\n/etc/a.png,1\n' }, {}, 'outside of its folder'],
  ['a drive', { 'a.png': 'x', 'labels.csv': 'image,label\nC:\\a.png,1\n' }, {}, 'outside of its folder'],
  [
    'a missing picture',
    { 'a.png': 'x', 'labels.csv': 'image,label\nward/b.png,1\n' },
    {},
    'the picture "b.png": there is no',
  ],
  ['another column', { 'a.png': 'x', 'labels.csv': 'scan,label\na.png,1\n' }, {}, 'no column of pictures (image)'],
  ['a damaged picture', { 'n/a.png': 'x' }, {}, 'the picture "a.png": it cannot be read'],
])('%s: an error that says what is wrong, without the folder of the picture', async (_name, files, images, message) => {
  await writeFiles(folder, files);
  const outcome = rowsOf(source(images), [IMAGE]);
  await expect(outcome).rejects.toThrow(message);
  await expect(outcome).rejects.not.toThrow(/ward|n\/a/);
  const told = await outcome.catch((error: Error) => withoutPictureNames(error.message));
  expect(told).not.toMatch(/[abc]\.png/);
});

test('a link that leads out of the folder is refused, one within is followed', async () => {
  const outside = await mkdtemp(join(tmpdir(), 'octomil-outside-'));
  await writeFiles(outside, { 'secret.png': greyPng(1) });
  await writeFiles(folder, { 'n/a.png': greyPng(7) });
  await symlink(join(folder, 'n/a.png'), join(folder, 'n/b.png'));
  expect(await rowsOf(source(), [IMAGE])).toHaveLength(2);
  await symlink(join(outside, 'secret.png'), join(folder, 'n/c.png'));
  await expect(openTable(source())).rejects.toThrow('the picture "c.png" is a link that leads out of the folder');
  await rm(outside, { recursive: true });
});

test('up to 1 in 100 pictures that cannot be read are left out; more are an error that names the first too many', async () => {
  const good = greyPng(80);
  const files = Object.fromEntries(
    Array.from({ length: 198 }, (_, i) => [`n/${String(i).padStart(3, '0')}.png`, good]),
  );
  await writeFiles(folder, { ...files, 'n/x1.png': good.subarray(0, 40), 'n/x2.jpg': 'GIF89a' });
  expect(await rowsOf(source(), [IMAGE])).toHaveLength(198);
  await writeFiles(folder, { 'n/x3.png': good.subarray(0, 20) });
  await expect(rowsOf(source(), [IMAGE])).rejects.toThrow('the picture "x3.png": it cannot be read');
  await expect(rowsOf(source(), [IMAGE])).rejects.toThrow('more than 1 % of the pictures cannot be read');
});

test('rows come in chunks that hold few large pictures, and none is lost between them', async () => {
  const sides = { height: 256, width: 256, channels: 3 } as const;
  const step = pictureChunkRows(256 * 256 * 3);
  expect(step).toBe(5);
  const count = 2 * step + 1;
  await writeFiles(
    folder,
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`n/${String(i).padStart(2, '0')}.png`, greyPng(i)])),
  );
  const reader = await openTable(source());
  const found: number[] = [];
  const sizes: number[] = [];
  for await (const { rows, columns } of reader.stream([{ column: 'image', as: 'image', ...sides }])) {
    sizes.push(rows);
    for (let row = 0; row < rows; row++) found.push(Math.round((columns[0]?.[row * 256 * 256 * 3 + 17] ?? 0) * 255));
  }
  reader.close();
  expect(sizes).toEqual([5, 5, 1]);
  expect(found).toEqual(Array.from({ length: count }, (_, i) => i));
});

test('a picture that the memory budget has no room for is no damaged picture', async () => {
  await writeFiles(folder, { 'n/a.png': greyPng(1, 200) });
  await expect(rowsOf(source(), [IMAGE], { readerBytes: 100_000 })).rejects.toThrow(
    'a picture of 200 × 200 pixels takes 480000 bytes',
  );
});

test('the digest changes with bytes, names and settings, and with nothing else', async () => {
  await writeFiles(folder, { 'n/a.png': greyPng(1), 'p/b.png': greyPng(2) });
  const before = await digestOf(source());
  expect(await digestOf(source())).toBe(before);
  expect(await digestOf(source({ column: 'x' }))).not.toBe(before);
  await rename(join(folder, 'n/a.png'), join(folder, 'p/a.png'));
  expect(await digestOf(source())).not.toBe(before);
  await rename(join(folder, 'p/a.png'), join(folder, 'n/a.png'));
  expect(await digestOf(source())).toBe(before);
  await writeFile(join(folder, 'n/a.png'), greyPng(3));
  expect(await digestOf(source())).not.toBe(before);
});

test('a digest that is cancelled says so', async () => {
  await writeFiles(folder, { 'n/cancelled.png': greyPng(9) });
  await expect(digestOf(source(), AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
});

test('a folder is taken for one of pictures only where nothing else is in it', async () => {
  await writeFiles(folder, { 'n/a.png': greyPng(1), 'labels.csv': 'image\n', 'notes.md': 'x' });
  expect(isPictureFolder(folder)).toBe(true);
  await writeFiles(folder, { 'patients.csv': 'a\n1\n' });
  expect(isPictureFolder(folder)).toBe(false);
  await rm(join(folder, 'n'), { recursive: true });
  expect(isPictureFolder(folder)).toBe(false);
});

test('many files are found at once', async () => {
  await writeFiles(folder, { 'n/0.png': greyPng(1), 'p/0.png': greyPng(1) });
  await Promise.all(Array.from({ length: 5_000 }, (_, i) => writeFile(join(folder, 'n', `${i + 1}.png`), 'x')));
  expect(locateData(source()).files).toHaveLength(5_002);
});

test('equal pictures have equal content whatever their names, so that they are held out together', async () => {
  await writeFiles(folder, { 'n/a.png': greyPng(1), 'n/b.png': greyPng(1), 'n/c.png': pngOf(4, 4, () => [1, 1, 2]) });
  const [a, b, c] = (await rowsOf(source(), [CONTENT])).flat();
  expect(a).toBe(b);
  expect(c).not.toBe(a);
});

test('whatever a picture is called, its name stays at the site', () => {
  for (const name of ['a "b".png', 'a\\".png', 'jane doe\n.png', '', '".png', 'picture "x".png']) {
    const told = withoutPictureNames(`/data: the ${namedPicture(name)}: it cannot be read; see ${namedPicture('z')}`);
    expect(told.replaceAll("picture (the site's log names it)", 'P')).toBe('/data: the P: it cannot be read; see P');
  }
});

test('nothing of what a file holds that is no picture is told', async () => {
  await writeFiles(folder, { 'n/a.png': 'Jane Doe, born 1950' });
  const message = await rowsOf(source(), [IMAGE]).catch((error: Error) => error.message);
  expect(message).toContain('neither PNG nor JPEG');
  expect(message).not.toMatch(/jane|4a616e65/i);
});

test('a file that is far too large for a picture is not read into memory', async () => {
  await writeFiles(folder, { 'n/a.png': '' });
  await truncate(join(folder, 'n/a.png'), 5 * 2 ** 30);
  await expect(rowsOf(source(), [IMAGE])).rejects.toThrow('it has 5368709120 bytes, which is over 67108864');
});

test('a table asked for pictures says that it has none', async () => {
  await writeFiles(folder, { 'a.csv': 'image,label\na.png,1\n' });
  await expect(rowsOf({ path: join(folder, 'a.csv') }, [IMAGE])).rejects.toThrow('the data set is a table');
});
