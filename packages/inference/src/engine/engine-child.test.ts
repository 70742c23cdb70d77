import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { LlamaEngine } from './llama-engine.js';
import { makeTinyGguf } from './testing/tiny-gguf.js';

/** Answers embeddings at once; the input `die` ends it, and `wait` is never answered. */
const PROGRAM = `
process.on('message', ({ type, id, inputs }) => {
  if (type === 'load') process.send({ type: 'loaded', contextTokens: 64, rssBytes: 1 });
  if (type !== 'embed' || inputs[0] === 'wait') return;
  if (inputs[0] === 'die') process.exit(3);
  process.send({ type: 'embedded', id, vectors: [new Float32Array(1_000)], promptTokens: 1 });
});
process.on('disconnect', () => process.exit(0));
`;
const never = new AbortController().signal;
let folder: string;
let engine: LlamaEngine;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-engine-child-'));
  await makeTinyGguf({ kind: 'bigram', path: join(folder, 'tiny.gguf') });
  await writeFile(join(folder, 'child.mjs'), PROGRAM);
  const entry = { path: join(folder, 'child.mjs'), execArgv: [] };
  engine = new LlamaEngine({ modelPath: join(folder, 'tiny.gguf'), entry });
});
afterAll(async () => {
  await engine.stop();
  await rm(folder, { recursive: true, force: true });
});

test('nothing of an answer is kept while its process lives on', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  // The flag would hold for the tests of other files in this process.
  setFlagsFromString('--no-expose-gc');
  const answers = await Promise.all(
    Array.from({ length: 10 }, async () => {
      const { vectors } = await engine.embed(['text'], new AbortController().signal);
      return new WeakRef(vectors[0] ?? new Float32Array(0));
    }),
  );
  // A WeakRef keeps its target until the turn in which it was made is over.
  await new Promise((resolve) => setTimeout(resolve, 10));
  collect();
  const kept = answers.filter((answer) => answer.deref() !== undefined).length;
  // The last one may still be on the stack of what delivered it.
  expect(kept).toBeLessThanOrEqual(1);
});

test('when the process dies, everybody who waits for it hears so', async () => {
  const waiting = ['wait', 'wait', 'die'].map((input) => engine.embed([input], never));
  const said = 'the engine process died during the request: it ended with exit code 3';
  for (const outcome of await Promise.allSettled(waiting)) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'inference_failed', reason: said } });
  }
});
