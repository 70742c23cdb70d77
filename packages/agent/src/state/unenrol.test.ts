import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { unenrol } from './unenrol.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'octomil-unenrol-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function write(...path: string[]): void {
  mkdirSync(join(folder, ...path.slice(0, -1)), { recursive: true });
  writeFileSync(join(folder, ...path), '{}');
}

test('copies of data go with the credential; the audit log stays, and what is the site’s own until it is to go', async () => {
  write('credential.json');
  write('audit.jsonl');
  write('sources', 'copies-1-x', 'patients.csv');
  write('control-variates', 's', 'c.safetensors');
  write('deployed', 'm1', 'active.json');
  write('data-sets.json');
  write('local-api.json');
  write('personal', 'abc', 'personal.json');
  expect(await unenrol(folder)).toEqual({ personalModels: 1 });
  for (const name of [
    'credential.json',
    'sources',
    'control-variates',
    'deployed',
    'data-sets.json',
    'local-api.json',
  ]) {
    expect([name, existsSync(join(folder, name))]).toEqual([name, false]);
  }
  expect(readdirSync(join(folder, 'personal'))).toEqual(['abc']);
  expect(await unenrol(folder, { personal: true })).toEqual({ personalModels: 0 });
  expect(existsSync(join(folder, 'personal'))).toBe(false);
  expect(existsSync(join(folder, 'audit.jsonl'))).toBe(true);
});
