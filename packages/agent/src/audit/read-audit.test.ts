import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { readAudit } from './read-audit.js';

test('entries are read from all files, oldest first, filtered, and without a line that was cut', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'read-audit-'));
  try {
    const path = join(folder, 'audit.jsonl');
    const line = (minute: number, kind: string, model: string) =>
      JSON.stringify({ at: `2026-03-01T10:${minute}:00.000Z`, kind, model });
    await writeFile(`${path}.2`, `${line(10, 'update', 'a')}\n`);
    await writeFile(`${path}.1`, `${line(11, 'update', 'b')}\n${line(12, 'statistics', 'a')}\n`);
    await writeFile(path, `${line(13, 'update', 'a')}\n{"at":"2026-03-01T10:1`);
    const minutes = async (filter: object) => (await readAudit(path, filter)).map(({ at }) => Number(at.slice(14, 16)));
    expect(await minutes({})).toEqual([10, 11, 12, 13]);
    expect(await minutes({ kind: 'update', model: 'a' })).toEqual([10, 13]);
    expect(await minutes({ sinceMs: Date.parse('2026-03-01T10:12:00Z') })).toEqual([12, 13]);
    expect(await minutes({ limit: 1 })).toEqual([13]);
    expect(await readAudit(join(folder, 'none', 'audit.jsonl'))).toEqual([]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
