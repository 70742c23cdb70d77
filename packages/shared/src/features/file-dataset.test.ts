import { fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, jest, test } from '@jest/globals';
import { entryPoint } from '@octomil/shared/runtime';
import fc from 'fast-check';
import { MemoryDataset } from './dataset.js';
import { FileDataset } from './file-dataset.js';
import { loadDataset } from './load-dataset.js';
import { RowFile } from './row-file.js';
import { specOfNumbers, writeNumbers } from './testing/number-table.js';

// Tables of some size, and a process that imports everything: slow where others have the cores.
jest.setTimeout(120_000);

const folder = mkdtempSync(join(tmpdir(), 'octomil-rows-test-'));
afterAll(() => rmSync(folder, { recursive: true }));
const onLinux = process.platform === 'linux' ? test : test.skip;

let folders = 0;
const fresh = (): string => join(folder, `spill${folders++}`);
const ALL_IN_FILE = { rowsBytes: 2_000_000, readerBytes: 2 ** 28 };
const bytes = (values: Float32Array): Buffer => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

async function onFile(memory: MemoryDataset): Promise<FileDataset> {
  const file = new RowFile(fresh());
  await file.append(bytes(memory.x));
  return new FileDataset(memory.width, file, memory.y);
}

test('rows of a file are those of memory, whichever are asked for, repeated, near and far', async () => {
  const widths = [1, 7, 2_000];
  for (const width of widths) {
    const x = Float32Array.from({ length: 500 * width }, (_, i) => Math.sin(i) * 1e3);
    const memory = new MemoryDataset(width, x, new Float32Array(500));
    const file = await onFile(memory);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(499), { maxLength: 80 }), fc.nat(500), fc.nat(500), async (rows, a, b) => {
        const asked = Uint32Array.from(rows);
        expect(bytes(await file.read(asked)).equals(bytes(memory.read(asked)))).toBe(true);
        const [start, end] = [Math.min(a, b), Math.max(a, b)];
        expect(bytes(await file.readRange(start, end)).equals(bytes(memory.readRange(start, end)))).toBe(true);
      }),
      { numRuns: 30 },
    );
    await file.close();
    await file.close();
    await expect(file.read(Uint32Array.of(1))).rejects.toThrow('after it was closed');
  }
});

test('a table that does not fit into memory is encoded to the same rows in a file, from CSV and Parquet', async () => {
  for (const format of ['csv', 'parquet'] as const) {
    const path = await writeNumbers(join(folder, `numbers.${format}`), { rows: 60_000, columns: 12 });
    const spill = fresh();
    const holdout = { salt: 'salt', shareRatio: 0.3 };
    const memory = await loadDataset({ path }, specOfNumbers(12), holdout);
    const file = await loadDataset({ path }, specOfNumbers(12), holdout, { memory: ALL_IN_FILE, folder: spill });
    for (const side of ['train', 'heldOut'] as const) {
      expect(memory[side]).toBeInstanceOf(MemoryDataset);
      expect(file[side]).toBeInstanceOf(FileDataset);
      const { rows, y } = memory[side];
      expect(rows).toBeGreaterThan(10_000);
      expect(bytes(file[side].y).equals(bytes(y))).toBe(true);
      const wanted = bytes(await memory[side].readRange(0, rows));
      expect(bytes(await file[side].readRange(0, rows)).equals(wanted)).toBe(true);
    }
    // Their files have no names.
    expect(readdirSync(spill)).toEqual([]);
    await file.train.close();
    await file.heldOut.close();
  }
});

onLinux(
  'the file is for its owner alone, has no name, and its room is given back when the data set is closed',
  async () => {
    const spill = fresh();
    const file = await onFile(new MemoryDataset(2, new Float32Array(20), new Float32Array(10)));
    const own = new RowFile(spill);
    expect(statSync(spill).mode & 0o777).toBe(0o700);
    const open = (): string[] =>
      readdirSync('/proc/self/fd').flatMap((fd) => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`).startsWith(`${spill}/`) ? [fd] : [];
        } catch {
          return [];
        }
      });
    const [descriptor = '', ...others] = open();
    expect(others).toEqual([]);
    expect(readlinkSync(`/proc/self/fd/${descriptor}`)).toMatch(/octomil-rows-\d+-\S+ \(deleted\)$/);
    expect(statSync(`/proc/self/fd/${descriptor}`).mode & 0o777).toBe(0o600);
    own.close();
    expect(open()).toEqual([]);
    await file.close();
  },
);

test('a process that is killed while it has rows in a file leaves nothing', async () => {
  const path = await writeNumbers(join(folder, 'killed.csv'), { rows: 40_000, columns: 12 });
  const spill = fresh();
  const program = join(folder, 'loads.mjs');
  writeFileSync(
    program,
    `import { loadDataset } from '@octomil/shared/features';
     const [path, folder, spec] = process.argv.slice(2);
     const memory = { rowsBytes: 2_000_000, readerBytes: 2 ** 28 };
     const { train } = await loadDataset({ path }, JSON.parse(spec), { salt: '', shareRatio: 0 }, { memory, folder });
     process.send(train.constructor.name);
     setInterval(() => train.rows, 1_000);`,
  );
  const { execArgv } = entryPoint(import.meta.url, 'any');
  const resolving = `data:text/javascript,${encodeURIComponent(
    `import { registerHooks } from 'node:module';
     registerHooks({ resolve: (name, context, next) => next(name, name.startsWith('@octomil/') ? { ...context, parentURL: ${JSON.stringify(import.meta.url)} } : context) });`,
  )}`;
  const child = fork(program, [path, spill, JSON.stringify(specOfNumbers(12))], {
    execArgv: [...execArgv, '--import', resolving],
  });
  const [kind] = (await once(child, 'message')) as [string];
  expect(kind).toBe('FileDataset');
  child.kill('SIGKILL');
  await once(child, 'close');
  expect(readdirSync(spill)).toEqual([]);
});

test('what a process left that could not unlink its file is removed by the next; files of living ones stay', () => {
  const spill = fresh();
  mkdirSync(spill);
  const { pid } = spawnSync(process.execPath, ['--version']);
  const names = [`octomil-rows-${pid}-a`, `octomil-rows-${process.ppid}-b`, 'other'];
  for (const name of names) writeFileSync(join(spill, name), 'rows');
  new RowFile(spill).close();
  expect(readdirSync(spill).sort()).toEqual(names.slice(1).sort());
  // What cannot be removed, as another user's, keeps nobody from training.
  mkdirSync(join(spill, `octomil-rows-${pid}-c`));
  new RowFile(spill).close();
});

test('more rows than memory holds the targets of are refused, as is a disk without room', async () => {
  const path = await writeNumbers(join(folder, 'many.csv'), { rows: 30_000, columns: 1 });
  const load = (rowsBytes: number) =>
    loadDataset({ path }, specOfNumbers(1), { salt: '', shareRatio: 0 }, { memory: { ...ALL_IN_FILE, rowsBytes } });
  await expect(load(20_000)).rejects.toThrow(/insufficient_memory.*more than \d+ rows.*they may take 20000/);
  const file = new RowFile(fresh());
  expect(() => file.expect(2 ** 60)).toThrow(
    /insufficient_storage.*1099511627776 MiB more are needed, and \d+ MiB are free/,
  );
  file.close();
});
