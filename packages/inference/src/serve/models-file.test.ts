import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { loadModelsFile } from './models-file.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-models-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function load(text: string): ReturnType<typeof loadModelsFile> {
  const path = join(folder, 'models.yaml');
  await writeFile(path, text);
  return loadModelsFile(path);
}

test('names keep their order, paths start at the folder of the file', async () => {
  const models = await load(`
models:
  small: ./a/small.gguf
  large:
    path: /models/large.gguf
    tier: quality
    params_b: 8
    context_tokens: 8192
    parallel: 2
    draft: small.gguf
`);
  expect(Object.entries(models)).toEqual([
    ['small', { path: join(folder, 'a/small.gguf') }],
    [
      'large',
      {
        path: '/models/large.gguf',
        tier: 'quality',
        paramB: 8,
        contextTokens: 8192,
        parallelSequences: 2,
        draftModelPath: join(folder, 'small.gguf'),
      },
    ],
  ]);
});

test('all problems are named together', async () => {
  await expect(load('models:\n  a: { path: x, parallel: 0 }\n  b: { tier: fast }\nother: 1\n')).rejects.toMatchObject({
    code: 'config_invalid',
    reason: expect.stringMatching(/other is not known.*models\.a\.parallel.*models\.b/s),
  });
  await expect(load('models:\n  b: { path: x, teir: fast }\n')).rejects.toMatchObject({
    reason: expect.stringMatching(/: models\.b\.teir is not known here$/),
  });
  for (const text of ['', 'models: {}', '[1]', 'models: [', 'models: 3']) {
    await expect(load(text)).rejects.toMatchObject({ code: 'config_invalid' });
  }
  await expect(loadModelsFile(join(folder, 'none.yaml'))).rejects.toMatchObject({ code: 'config_invalid' });
});
