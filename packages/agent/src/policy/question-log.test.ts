import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { QuestionLog } from './question-log.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-questions-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const DIGEST = 'd'.repeat(64);
const about = (value: number) => ({ target: { column: 'age', comparison: '>', value } });
const never = (): Promise<string> => Promise.reject(new OctomilError('internal', 'asked again'));

test('one question has one answer while the data stays the same, also after a restart', async () => {
  const log = new QuestionLog(folder, 8);
  expect(await log.answer('a', DIGEST, about(50), async () => 'first')).toBe('first');
  expect(await log.answer('a', DIGEST, about(50), never)).toBe('first');
  expect(await new QuestionLog(folder, 8).answer('a', DIGEST, about(50), never)).toBe('first');
  expect(await log.answer('a', 'e'.repeat(64), about(50), async () => 'of other data')).toBe('of other data');
});

test('the question after the last one is refused by the name of the rule, also after a restart', async () => {
  const log = new QuestionLog(folder, 2);
  await log.answer('a', DIGEST, about(50), async () => '1');
  await log.answer('a', DIGEST, about(51), async () => '2');
  const refusal = {
    code: 'policy_denied',
    reason: expect.stringMatching(/max_questions_per_data_digest.*"a".*\b2\b/),
    details: { rule: 'max_questions_per_data_digest', limit: 2 },
  };
  await expect(log.answer('a', DIGEST, about(52), never)).rejects.toMatchObject(refusal);
  await expect(new QuestionLog(folder, 2).answer('a', DIGEST, about(52), never)).rejects.toMatchObject(refusal);
  expect(await log.answer('a', DIGEST, about(51), never)).toBe('2');
});

test('markers and exclusions are part of the question, their order and spelling are not', async () => {
  const log = new QuestionLog(folder, 8);
  const ask = (extra: object, answer: string) =>
    log.answer('a', DIGEST, { ...about(50), ...extra }, async () => answer);
  await ask({}, 'plain');
  expect(await ask({ exclude: ['x', 'y'], missingMarkers: { chol: [0, -9], bp: [0] } }, 'marked')).toBe('marked');
  const same = { missingMarkers: { BP: [0], chol: [-9, 0, 0], age: [] }, exclude: ['Y', ' x', 'x'] };
  expect(await ask(same, 'again')).toBe('marked');
  expect(await ask({ missingMarkers: { chol: [0] } }, 'other')).toBe('other');
});

test('hints and the size of pictures are part of the question, the order of their fields is not', async () => {
  const log = new QuestionLog(folder, 4);
  const ask = (extra: object, answer: string) =>
    log.answer('a', DIGEST, { ...about(50), ...extra }, async () => answer);
  expect(await ask({}, 'plain')).toBe('plain');
  const hints = { born: { kind: 'datetime', reference: '2020-01-01' }, chol: { clip: [0, 500] } };
  expect(await ask({ hints }, 'hinted')).toBe('hinted');
  const same = { chol: { clip: [0, 500] }, born: { reference: '2020-01-01', kind: 'datetime' } };
  expect(await ask({ hints: same }, 'again')).toBe('hinted');
  expect(await ask({ hints: { ...hints, chol: { clip: [0, 501] } } }, 'cut otherwise')).toBe('cut otherwise');
  expect(await ask({ imageShape: { height: 8, width: 8, channels: 1 } }, 'resized')).toBe('resized');
  // Answers to hints that differ by one patient count as any others.
  await expect(ask({ hints: { chol: { clip: [0, 502] } } }, 'more')).rejects.toMatchObject({ code: 'policy_denied' });
});

test('of questions at the same moment no more are answered than one after the other', async () => {
  const log = new QuestionLog(folder, 3);
  const answers = await Promise.allSettled(
    Array.from({ length: 10 }, (_, index) => log.answer('a', DIGEST, about(index), async () => String(index))),
  );
  expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
});

test('what could not be answered does not count', async () => {
  const log = new QuestionLog(folder, 1);
  await expect(log.answer('a', DIGEST, about(50), never)).rejects.toMatchObject({ code: 'internal' });
  expect(await log.answer('a', DIGEST, about(51), async () => 'yes')).toBe('yes');
});

test('a damaged record answers nothing', async () => {
  const log = new QuestionLog(folder, 8);
  await log.answer('a', DIGEST, about(50), async () => 'yes');
  const [name = ''] = await readdir(folder);
  await writeFile(join(folder, name), '{"answers"');
  await expect(log.answer('a', DIGEST, about(51), never)).rejects.toMatchObject({ code: 'policy_denied' });
});

test('work on a target that was never described counts as a question, once, also after a restart', async () => {
  const log = new QuestionLog(folder, 2);
  await log.answer('a', DIGEST, about(50), async () => '1');
  await log.count('a', DIGEST, about(51));
  await log.count('a', DIGEST, about(51));
  const again = new QuestionLog(folder, 2);
  await again.count('a', DIGEST, about(51));
  const refusal = { code: 'policy_denied', details: { rule: 'max_questions_per_data_digest', limit: 2 } };
  await expect(again.count('a', DIGEST, about(52))).rejects.toMatchObject(refusal);
  await expect(again.count('a', DIGEST, { ...about(51), missingMarkers: { bp: [0] } })).rejects.toMatchObject(refusal);
  await expect(again.answer('a', DIGEST, about(52), never)).rejects.toMatchObject(refusal);
  await again.count('a', 'e'.repeat(64), about(52));
});

test('work on a target that was described is free, whatever markers were agreed on', async () => {
  const log = new QuestionLog(folder, 1);
  await log.answer('a', DIGEST, { ...about(50), exclude: ['x'] }, async () => '1');
  await log.count('a', DIGEST, { ...about(50), missingMarkers: { chol: [0] } });
  await new QuestionLog(folder, 1).count('a', DIGEST, about(50));
});

test('a description that failed makes no work free', async () => {
  const log = new QuestionLog(folder, 1);
  await expect(log.answer('a', DIGEST, about(50), never)).rejects.toMatchObject({ code: 'internal' });
  await log.count('a', DIGEST, about(50));
  await expect(log.count('a', DIGEST, about(51))).rejects.toMatchObject({ code: 'policy_denied' });
});
