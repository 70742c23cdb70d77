import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';
import { entryPoint } from '@octomil/shared/runtime';

const run = promisify(execFile);
const main = entryPoint(new URL('../main.ts', import.meta.url).href, 'main');

test('personal models of a site are listed and removed by name, with or without any', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-personal-'));
  try {
    const config = join(folder, 'agent.yaml');
    const settings = { coordinator: '127.0.0.1:1', device_identifier: 'x', state_dir: 'state', policy: { allow: [] } };
    await writeFile(config, JSON.stringify(settings));
    const octomil = (...args: string[]) =>
      run(process.execPath, [...main.execArgv, main.path, 'agent', 'personal', ...args, '--config', config]);
    expect((await octomil('list')).stdout).toMatch(/keeps no personal models/);
    expect(JSON.parse((await octomil('list', '--json')).stdout)).toEqual([]);
    await expect(octomil('remove', 'abc')).rejects.toMatchObject({
      stderr: expect.stringMatching(/no personal model "abc"; there are none/),
    });
    await expect(octomil('export', 'abc', '--output', join(folder, 'out'))).rejects.toMatchObject({
      stderr: expect.stringMatching(/no personal model "abc"/),
    });
    // What the page says exists.
    const page = await readFile(new URL('../../../../docs/personalization.md', import.meta.url), 'utf8');
    for (const command of ['list', 'export', 'remove']) expect(page).toContain(`octomil agent personal ${command}`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}, 240_000);
