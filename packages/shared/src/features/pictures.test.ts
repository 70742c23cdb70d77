import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { DataSource } from '@octomil/shared/data';
import fc from 'fast-check';
import jpeg from 'jpeg-js';
import { PNG } from 'pngjs';
import { describeSite } from './describe-site.js';
import { encodeRows } from './encode.js';
import { decodePictures } from './encode-pictures.js';
import type { FeatureColumn, FeatureSpec, ImageColumn } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { mergeStatistics } from './merge-statistics.js';
import type { SiteStatistics } from './site-statistics.js';
import { sealFeatureSpec } from './spec-hash.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-picture-features-'));
});
afterEach(() => rm(folder, { recursive: true }));

const TARGET = { column: 'label' };
const SHAPE = { height: 3, width: 2, channels: 3 } as const;
const ALL = { salt: 's', shareRatio: 0 };
type Colour = readonly [number, number, number];

function png(colourOf: (x: number, y: number) => Colour, width = 4, height = 6): Buffer {
  const image = new PNG({ width, height });
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) image.data.set([...colourOf(x, y), 255], (y * width + x) * 4);
  }
  return PNG.sync.write(image);
}

/** Pictures in folders `ill` and `well`. */
async function site(name: string, pictures: readonly (readonly [label: string, bytes: Buffer])[]): Promise<DataSource> {
  for (const [i, [label, bytes]] of pictures.entries()) {
    await mkdir(join(folder, name, label), { recursive: true });
    await writeFile(join(folder, name, label, `${String(i).padStart(4, '0')}.png`), bytes);
  }
  return { path: join(folder, name), images: {} };
}

const even = (count: number, colour: Colour, other: Colour): (readonly [string, Buffer])[] =>
  Array.from({ length: count }, (_, i) => [i % 2 === 0 ? 'ill' : 'well', png(() => (i % 2 === 0 ? colour : other))]);

const describe = (source: DataSource) => describeSite(source, { target: TARGET, imageShape: SHAPE });
const entry = (name: string, statistics: SiteStatistics) => ({ deviceId: name, name, statistics });

test('sites tell count, mean and deviation of each channel, rounded, and agree on one column of pictures', async () => {
  const north = await describe(await site('north', even(30, [0, 51, 102], [0, 153, 255])));
  const south = await describe(await site('south', even(10, [0, 255, 0], [0, 255, 255])));
  const [column] = north.columns;
  expect(column).toMatchObject({ name: 'image', seen: 'image', count: 30, missing: 0, moments: null, categories: [] });
  const [red, green, blue] = column?.image?.moments ?? [];
  expect(red).toEqual({ count: 30, mean: 0, deviation: 0 });
  // 0.2 and 0.6: mean 0.4, deviation 0.2, each to within 1/32 of the deviation.
  expect(Math.abs((green?.mean ?? 0) - 0.4)).toBeLessThan(0.2 / 32);
  expect(Math.abs((green?.deviation ?? 0) - 0.2)).toBeLessThan(0.2 / 32);
  expect((green?.mean ?? 0) * 256).toBe(Math.round((green?.mean ?? 0) * 256));
  expect(Math.abs((blue?.mean ?? 0) - 0.7)).toBeLessThan(0.3 / 32);
  const spec = mergeStatistics([entry('n', north), entry('s', south)], { target: TARGET, layout: 'grid' });
  expect(spec.columns).toHaveLength(1);
  const [image] = spec.columns as readonly ImageColumn[];
  expect(image).toMatchObject({ kind: 'image', ...SHAPE, missingIndicator: false });
  expect(image?.mean[0]).toBe(0);
  expect(image?.deviation[0]).toBe(1);
  expect(Math.abs((image?.mean[1] ?? 0) - (0.4 * 30 + 10) / 40)).toBeLessThan(0.01);
  expect(spec.target.classes).toEqual(['ill', 'well']);
});

test('nothing is told of fewer than 10 pictures, and without a size they are left out by name', async () => {
  const nine = await site('nine', even(9, [1, 2, 3], [4, 5, 6]));
  await expect(describe(nine)).rejects.toThrow('fewer than 10 rows');
  const ten = await site('ten', even(10, [1, 2, 3], [4, 5, 6]));
  const plain = await describeSite(ten, { target: TARGET });
  expect([plain.columns, plain.excluded]).toEqual([[], [{ name: 'image', reason: 'unsupported_type' }]]);
  const bad = { height: 4_096, width: 4_096, channels: 3 } as const;
  await expect(describeSite(ten, { target: TARGET, imageShape: bad })).rejects.toThrow('are not possible');
});

test('one picture more or less moves what is told by one step of the rounding at most', async () => {
  const pictures = even(24, [10, 20, 30], [200, 100, 250]);
  const momentsOf = ({ columns }: SiteStatistics) => columns[0]?.image?.moments ?? [];
  const before = momentsOf(await describe(await site('before', pictures)));
  const odd = [...pictures, ['ill', png(() => [255, 0, 0])] as const];
  const after = momentsOf(await describe(await site('after', odd)));
  expect(after).toHaveLength(3);
  after.forEach(({ count, mean, deviation }, channel) => {
    const step = 2 ** Math.floor(Math.log2(before[channel]?.deviation ?? 1)) / 32;
    expect(count).toBe(30);
    for (const value of [mean, deviation]) expect(Number.isInteger(value / (step / 2))).toBe(true);
    expect(Math.abs(mean - (before[channel]?.mean ?? 0))).toBeLessThanOrEqual(3 * step);
  });
});

test('a site with columns of pixels and one with pictures do not go together, and the site is named', async () => {
  const pictures = await describe(await site('a', even(20, [1, 2, 3], [4, 5, 6])));
  const [column] = pictures.columns;
  if (column === undefined) throw new TypeError('no column');
  const { image: _, ...table } = column;
  const numbers = {
    ...pictures,
    columns: [{ ...table, seen: 'numeric' as const, moments: { count: 10, mean: 1, deviation: 1 } }],
  };
  const merge = (other: SiteStatistics) =>
    mergeStatistics([entry('pixels', other), entry('scans', pictures)], { target: TARGET, layout: 'grid' });
  expect(() => merge(numbers)).toThrow('site "pixels": its column "image" holds no pictures');
  const larger = { ...pictures, columns: [{ ...column, image: { height: 9, width: 9, channels: 3, moments: [] } }] };
  expect(() => merge(larger)).toThrow('another size');
});

const spec = (shape: { height: number; width: number; channels: number }): FeatureSpec =>
  sealFeatureSpec({
    formatVersion: 1,
    layout: 'grid',
    columns: [
      {
        ...{ kind: 'image', name: 'image', missingMarkers: [], missingIndicator: false },
        ...shape,
        mean: [0.5, 0.25, 0.1].slice(0, shape.channels),
        deviation: [0.25, 0.5, 2].slice(0, shape.channels),
      },
    ],
    target: {
      ...{ rule: TARGET, output: { kind: 'binary' }, classes: ['ill', 'well'], values: 'text' },
      ...{ mean: 0, deviation: 1, missingMarkers: [] },
    },
  });

test('training and inference encode a picture alike: each channel by its own mean and deviation', async () => {
  const pictures: (readonly [string, Buffer])[] = [
    ['ill', png((x, y) => [x * 50, y * 40, 7])],
    ['well', Buffer.from(jpeg.encode({ width: 8, height: 8, data: Buffer.alloc(256, 90) }, 90).data)],
    ['well', png(() => [255, 128, 0], 1, 1)],
  ];
  const { train } = await loadDataset(await site('s', pictures), spec(SHAPE), ALL);
  expect([...train.y]).toEqual([0, 1, 1]);
  const x = await train.readRange(0, 3);
  const given = [
    pictures[0]?.[1],
    pictures[1]?.[1].toString('base64'),
    `data:image/png;base64,${pictures[2]?.[1].toString('base64')}`,
  ];
  const rows = await decodePictures(
    spec(SHAPE),
    given.map((image, i) => (i === 1 ? { Image: image } : { image })),
  );
  expect([...encodeRows(spec(SHAPE), rows)]).toEqual([...x]);
  for (const [channel, value] of [(1 - 0.5) / 0.25, (128 / 255 - 0.25) / 0.5, -0.1 / 2].entries()) {
    expect(x[2 * 18 + channel]).toBeCloseTo(value, 5);
  }
});

test('rows beyond the memory budget go to a file and are the same', async () => {
  const shape = { height: 32, width: 32, channels: 3 };
  const pictures = Array.from({ length: 60 }, (_, i): readonly [string, Buffer] => [
    i % 3 === 0 ? 'ill' : 'well',
    png((x, y) => [x * i, y * 9, i * 4]),
  ]);
  const source = await site('large', pictures);
  const rule = { salt: 's', shareRatio: 0.3 };
  const whole = await loadDataset(source, spec(shape), rule);
  const spilled = await loadDataset(source, spec(shape), rule, {
    folder,
    memory: { rowsBytes: 100_000, readerBytes: 1e8 },
  });
  expect(whole.train.rows + whole.heldOut.rows).toBe(60);
  expect(whole.heldOut.rows).toBeGreaterThan(5);
  for (const side of ['train', 'heldOut'] as const) {
    const count = whole[side].rows;
    expect(spilled[side].constructor.name).toBe('FileDataset');
    expect(await spilled[side].readRange(0, count)).toEqual(await whole[side].readRange(0, count));
    expect(spilled[side].y).toEqual(whole[side].y);
    await spilled[side].close();
  }
});

test('drift tells how much brighter the pictures of a site are', async () => {
  const grey = { height: 2, width: 2, channels: 1 };
  const { drift } = await loadDataset(
    await site('bright', even(20, [255, 255, 255], [255, 255, 255])),
    spec(grey),
    ALL,
  );
  expect(drift.columns[0]).toMatchObject({ name: 'image', shift: 2, missingRatio: 0 });
});

test('a spec of small deviations learns how bright pictures are no finer than the description tells it', async () => {
  const source = await site('fine', even(20, [0, 0, 0], [253, 253, 253]));
  const [told] = (await describe(source)).columns.flatMap(({ image }) => image?.moments[0]?.mean ?? []);
  for (const [mean, deviation] of [
    [0.5, 1 / 32],
    [0.49, 1 / 256],
    [0.3, 1 / 1024],
  ] as const) {
    const { columns, ...rest } = spec({ height: 2, width: 2, channels: 1 });
    const chosen = columns.map((column) => ({ ...column, mean: [mean], deviation: [deviation] })) as FeatureColumn[];
    const { drift } = await loadDataset(source, sealFeatureSpec({ ...rest, columns: chosen }), ALL);
    expect(mean + (drift.columns[0]?.shift ?? 0) * deviation).toBeCloseTo(told ?? 0, 5);
  }
});

test.each([
  ['a text', 'scan.png', /it is no picture/],
  ['a number', 7, /it is no picture/],
  ['bytes of something else', Buffer.from('GIF89a'), /neither PNG nor JPEG/],
  ['a cut picture', png(() => [1, 2, 3]).subarray(0, 50), /row 0: the value of "image": the picture cannot be read/],
])('%s in place of a picture is refused', async (_name, image, message) => {
  const outcome = decodePictures(spec(SHAPE), [{ image }]);
  await expect(outcome).rejects.toThrow(message);
  await expect(outcome).rejects.toHaveProperty('code', 'invalid_input');
});

test('a text that is almost base64 is refused in the time that it takes to read it', async () => {
  const almost = `${' '.repeat(400_000)}!`;
  await expect(decodePictures(spec(SHAPE), [{ image: almost }])).rejects.toThrow('it is no picture');
  const wrapped = png(() => [1, 2, 3])
    .toString('base64')
    .replaceAll(/(.{8})/g, '$1\r\n');
  expect(await decodePictures(spec(SHAPE), [{ image: wrapped }])).toHaveLength(1);
});

test('of many names for one column one picture is decoded, the one that is used', async () => {
  const decoded: string[] = [];
  const decode = (
    bytes: Uint8Array,
    { height, width, channels }: { height: number; width: number; channels: number },
  ) => {
    decoded.push(Buffer.from(bytes).toString());
    return Promise.resolve(new Float32Array(height * width * channels).fill(0.5));
  };
  const row = { image: Buffer.from('a'), IMAGE: Buffer.from('b'), ' Image ': Buffer.from('c') };
  const rows = await decodePictures(spec(SHAPE), [row], decode);
  expect(decoded).toEqual(['c']);
  expect(encodeRows(spec(SHAPE), rows)[0]).toBe(0);
});

test('more numbers than a call may take are refused before anything is decoded', async () => {
  const rows = Array.from({ length: 400 }, () => ({ image: 'x' }));
  await expect(decodePictures(spec({ height: 256, width: 256, channels: 3 }), rows)).rejects.toThrow(
    'fewer rows at a time',
  );
  expect(() => encodeRows(spec(SHAPE), [{ image: Buffer.alloc(3) }])).toThrow('is to be decoded first');
});

test('encoded numbers are within the limits whatever the colours', async () => {
  await fc.assert(
    fc.asyncProperty(fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255)), async (colour) => {
      const [row] = await decodePictures(spec(SHAPE), [{ image: png(() => colour) }]);
      const encoded = encodeRows(spec(SHAPE), [row ?? {}]);
      expect(encoded).toHaveLength(18);
      colour.forEach((value, channel) => {
        const mean = [0.5, 0.25, 0.1][channel] ?? 0;
        const deviation = [0.25, 0.5, 2][channel] ?? 1;
        for (let place = channel; place < 18; place += 3)
          expect(encoded[place]).toBeCloseTo((value / 255 - mean) / deviation, 4);
      });
    }),
    { numRuns: 30 },
  );
});
