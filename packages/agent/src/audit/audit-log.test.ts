import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { AuditLog } from './audit-log.js';

const clock = { ...systemClock, now: () => Date.UTC(2026, 0, 2) };

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-audit-'));
  try {
    await run(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('an entry is in the file when record resolves, and a later process appends', () =>
  inFolder(async (folder) => {
    const path = join(folder, 'audit.jsonl');
    for (const round of [1, 2]) {
      const log = new AuditLog(path, { clock });
      await log.record({ kind: 'update', round, sizeBytes: 10, rule: 'heart' });
      expect((await readFile(path, 'utf8')).trim().split('\n')).toHaveLength(round);
      await log.close();
    }
    const [first = ''] = (await readFile(path, 'utf8')).split('\n');
    expect(JSON.parse(first)).toEqual({
      at: '2026-01-02T00:00:00.000Z',
      kind: 'update',
      round: 1,
      sizeBytes: 10,
      rule: 'heart',
    });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  }));

test('long names from outside take little room, so that they cannot push older entries out', () =>
  inFolder(async (folder) => {
    const path = join(folder, 'audit.jsonl');
    const log = new AuditLog(path, { clock });
    const federation = 'f'.repeat(4_000_000);
    await log.record({ kind: 'failure', federation, details: { code: 'invalid_input', message: federation } });
    await log.close();
    expect((await stat(path)).size).toBeLessThan(3_000);
    expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({ federation: `${'f'.repeat(1_000)}…` });
  }));

test('a full file is put aside whole, and the oldest go', () =>
  inFolder(async (folder) => {
    const path = join(folder, 'audit.jsonl');
    const log = new AuditLog(path, { clock, maxBytes: 200, keptFiles: 2 });
    for (let round = 0; round < 12; round++) await log.record({ kind: 'update', round });
    await log.close();
    const names = (await readdir(folder)).sort();
    expect(names).toEqual(['audit.jsonl', 'audit.jsonl.1', 'audit.jsonl.2']);
    const texts = await Promise.all([2, 1].map((index) => readFile(`${path}.${index}`, 'utf8')));
    const rounds = [...texts, await readFile(path, 'utf8')]
      .join('')
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { round: number }).round);
    expect(rounds.at(-1)).toBe(11);
    expect(rounds).toEqual(rounds.map((_, index) => (rounds[0] ?? 0) + index));
  }));

test('entries that cannot be written reject, so that nothing leaves', () =>
  inFolder(async (folder) => {
    const log = new AuditLog(join(folder, 'missing', 'audit.jsonl'), { clock });
    // The message travels to the coordinator, and folders of this site are none of its business.
    await expect(log.record({ kind: 'update' })).rejects.toMatchObject({
      code: 'insufficient_storage',
      reason: expect.not.stringContaining(folder),
    });
  }));
