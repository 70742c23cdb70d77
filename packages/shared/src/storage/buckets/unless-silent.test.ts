import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { networkProblem } from './bucket-problem.js';
import { unlessSilent } from './unless-silent.js';

test('a stream that falls silent ends, with what came before', async () => {
  const stream = new Readable({ read: () => undefined });
  stream.push('half');
  const got: string[] = [];
  const reading = (async () => {
    for await (const chunk of unlessSilent(stream, 20)) got.push(Buffer.from(chunk).toString());
  })();
  expect(networkProblem(await reading.catch((error: unknown) => error))).toBe('timeout');
  expect(got).toEqual(['half']);
  expect(stream.destroyed).toBe(true);
});

test('a reader may take its time, and one that leaves lets go of the stream', async () => {
  const got: string[] = [];
  for await (const chunk of unlessSilent(Readable.from([Buffer.from('a'), Buffer.from('b')]), 20)) {
    got.push(Buffer.from(chunk).toString());
    await sleep(60);
  }
  expect(got).toEqual(['a', 'b']);
  const left = new Readable({ read: () => undefined });
  left.push('a');
  for await (const _ of unlessSilent(left, 60_000)) break;
  expect(left.destroyed).toBe(true);
});
