import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { checkGguf } from './check-gguf.js';
import { makeTinyGguf } from './testing/tiny-gguf.js';

let folder: string;
let whole: Buffer;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-gguf-'));
  await makeTinyGguf({ kind: 'random', path: join(folder, 'whole.gguf') });
  whole = await readFile(join(folder, 'whole.gguf'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('a whole file is described by its header', async () => {
  expect(await checkGguf(join(folder, 'whole.gguf'))).toMatchObject({
    architecture: 'llama',
    name: 'octomil-tiny-random',
    contextTokens: 2048,
    embeddingWidth: 64,
    hasChatTemplate: true,
    sizeBytes: whole.length,
  });
});

test('the same seed makes the same file, another seed another one', async () => {
  const make = async (seed: number): Promise<Buffer> => {
    const path = join(folder, `seed-${seed}.gguf`);
    await makeTinyGguf({ kind: 'random', path, seed });
    return readFile(path);
  };
  expect((await make(1)).equals(whole)).toBe(true);
  expect((await make(2)).equals(whole)).toBe(false);
});

test.each([
  ['llama.attention.head_count'],
  ['llama.feed_forward_length'],
  ['llama.attention.layer_norm_rms_epsilon'],
  ['llama.context_length'],
  ['general.architecture'],
  ['tokenizer.ggml.tokens'],
])('a header without %s is refused by that name, before an engine sees it', async (key) => {
  const path = join(folder, 'incomplete.gguf');
  await makeTinyGguf({ kind: 'random', path, leaveOut: [key] });
  await expect(checkGguf(path)).rejects.toMatchObject({
    code: 'model_load_failed',
    reason: expect.stringContaining(key),
  });
});

test('a file that is cut short anywhere is refused', async () => {
  const path = join(folder, 'cut.gguf');
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: whole.length - 64 }), async (length) => {
      await writeFile(path, whole);
      await truncate(path, length);
      await expect(checkGguf(path)).rejects.toMatchObject({ code: 'model_load_failed' });
    }),
    { numRuns: 40 },
  );
});

test('a header with any byte changed is described or refused, and asks for no memory by its counts', async () => {
  const path = join(folder, 'changed.gguf');
  await fc.assert(
    fc.asyncProperty(fc.nat(6000), fc.nat(255), async (at, byte) => {
      const bytes = Buffer.from(whole);
      bytes[at] = byte;
      await writeFile(path, bytes);
      const result = await checkGguf(path).catch((error: unknown) => error);
      if (result instanceof Error) expect(result).toMatchObject({ code: 'model_load_failed' });
    }),
    { numRuns: 60 },
  );
  const huge = Buffer.from(whole);
  huge.writeBigUInt64LE(2n ** 62n, 16);
  await writeFile(path, huge);
  await expect(checkGguf(path)).rejects.toMatchObject({ code: 'model_load_failed' });
});

test('what is not there, no file, or no GGUF is said so', async () => {
  await expect(checkGguf(join(folder, 'none.gguf'))).rejects.toMatchObject({
    code: 'model_load_failed',
    reason: expect.stringContaining('does not exist'),
  });
  await expect(checkGguf(folder)).rejects.toMatchObject({ code: 'model_load_failed' });
  await writeFile(join(folder, 'text.gguf'), 'not a model at all');
  await expect(checkGguf(join(folder, 'text.gguf'))).rejects.toMatchObject({
    reason: expect.stringContaining('does not begin with GGUF'),
  });
});
