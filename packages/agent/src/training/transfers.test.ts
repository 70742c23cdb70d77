import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { OPEN_POLICY, onBench } from '../testing/agent-under-test.js';

const ref = (assignmentId: string, attempt = 1) => ({ assignmentId, attempt });
const puts = (requests: string[]): string[] =>
  requests.filter((line) => line.startsWith('PUT')).map((line) => line.split('/').at(-1) ?? '');

test('a large update goes in parts, and a part that is cut is sent again', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.inlineMaxBytes = 1_000;
    let cuts = 0;
    coordinator.onHttp = (request) => {
      if (!request.url?.endsWith('/parts/1') || cuts > 0) return false;
      cuts += 1;
      request.socket.destroy();
      return true;
    };
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.alloc(250_000, 7)) });
    await coordinator.until(() => coordinator.updates.has('a'));
    expect(cuts).toBe(1);
    expect(puts(coordinator.httpRequests).sort()).toEqual(['0', '1', '1', '2', '3']);
    expect(coordinator.of('ticketRequest')).toHaveLength(1);
    await coordinator.until(() => bench.log.some(({ message }) => message === 'update accepted'));
  }));

test('an upload that was cut with its session goes on with the parts that are missing', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.inlineMaxBytes = 1_000;
    let blocked = true;
    coordinator.onHttp = (request) => {
      if (!blocked || !/parts\/[23]$/.test(request.url ?? '')) return false;
      request.socket.destroy();
      return true;
    };
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.alloc(250_000, 7)) });
    await coordinator.until(() => [...coordinator.tickets.values()][0]?.received.size === 2);
    await coordinator.stop();
    blocked = false;
    coordinator.httpRequests.length = 0;
    await coordinator.start();
    await coordinator.until(() => coordinator.updates.has('a'));
    expect(puts(coordinator.httpRequests).sort()).toEqual(['2', '3']);
  }));

test('where HTTP is not offered, bases and updates go over gRPC', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    Object.assign(coordinator, { inlineMaxBytes: 1_000, offersHttp: false });
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.alloc(3_000_000, 7)) });
    await coordinator.until(() => coordinator.updates.has('a'));
    expect([coordinator.downloadsByGrpc, coordinator.uploadsByGrpc]).toEqual([1, 1]);
    expect(coordinator.httpRequests).toEqual([]);
  }));

test('where HTTP is offered but not reached, gRPC takes over', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.inlineMaxBytes = 1_000;
    coordinator.onHttp = (request) => {
      request.socket.destroy();
      return true;
    };
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.alloc(200_000, 7)) });
    await coordinator.until(() => coordinator.updates.has('a'));
    expect([coordinator.downloadsByGrpc, coordinator.uploadsByGrpc]).toEqual([1, 1]);
  }));

test('a download that is cut goes on where it stopped', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const bytes = Buffer.from(Array.from({ length: 400_000 }, (_, index) => index % 251));
    const base = coordinator.addObject(bytes);
    const ranges: (string | undefined)[] = [];
    coordinator.onHttp = (request, response) => {
      ranges.push(request.headers.range);
      if (ranges.length > 1) return false;
      response.writeHead(200, { 'content-length': bytes.length });
      response.write(bytes.subarray(0, 150_000), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base });
    await coordinator.until(() => coordinator.updates.has('a'));
    expect(ranges).toEqual([undefined, 'bytes=150000-']);
    expect(await readdir(join(bench.stateDir, 'models'))).toEqual([`${base.sha256}.safetensors`]);
  }));

test('wrong bytes are fetched once more, and then the assignment fails with the digest', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const base = coordinator.addObject(Buffer.alloc(1_000, 1));
    coordinator.objects.set(base.sha256, Buffer.alloc(1_000, 2));
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base });
    await coordinator.until(() => coordinator.of('assignmentFailure').length === 1);
    expect(coordinator.of('assignmentFailure')[0]?.problem?.code).toBe('checksum_mismatch');
    expect(coordinator.httpRequests).toHaveLength(2);
    expect(await readdir(join(bench.stateDir, 'models'))).toEqual([]);
  }));

test('a base of an earlier run is used when it is whole and fetched when it is not', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const base = coordinator.addObject(Buffer.alloc(100_000, 1));
    for (const [index, damaged] of [false, false, true].entries()) {
      if (damaged) {
        const { writeFile } = await import('node:fs/promises');
        await writeFile(join(bench.stateDir, 'models', `${base.sha256}.safetensors`), Buffer.alloc(100_000, 9));
      }
      const agent = await bench.start();
      await agent.ready;
      coordinator.assign({ ref: ref(`a${index}`), sessionId: `s${index}`, base });
      await coordinator.until(() => coordinator.updates.has(`a${index}`));
      await agent.stop();
    }
    expect(coordinator.httpRequests).toHaveLength(2);
  }));

test('bases beyond the limit are dropped, least recently used first', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const agent = await bench.start({ models_cache_mb: 1 });
    await agent.ready;
    const bases = [1, 2, 3].map((value) => coordinator.addObject(Buffer.alloc(450_000, value)));
    for (const [index, base] of bases.entries()) {
      coordinator.assign({ ref: ref(`a${index}`), sessionId: `s${index}`, base });
      await coordinator.until(() => coordinator.updates.has(`a${index}`));
      await coordinator.until(() => bench.log.filter(({ message }) => message === 'update accepted').length > index);
    }
    const kept = await readdir(join(bench.stateDir, 'models'));
    expect(kept.sort()).toEqual([bases[1], bases[2]].map((base) => `${base?.sha256}.safetensors`).sort());
  }));

test('a base beyond the limit is refused before a byte of it is fetched', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const base = coordinator.addObject(Buffer.alloc(1_100_000, 1));
    const agent = await bench.start({ models_cache_mb: 1 });
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base });
    await coordinator.until(() => coordinator.of('assignmentFailure').length === 1);
    expect(coordinator.of('assignmentFailure')[0]?.problem?.code).toBe('insufficient_storage');
    expect(coordinator.httpRequests).toHaveLength(0);
  }));

test('the base that a session has left behind is dropped at once; another session keeps its own', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const bases = [1, 2, 3].map((byte) => coordinator.addObject(Buffer.alloc(1_000, byte)));
    const agent = await bench.start();
    await agent.ready;
    for (const [assignmentId, sessionId, base] of [
      ['a', 's1', bases[0]],
      ['b', 's2', bases[1]],
      ['c', 's1', bases[2]],
    ] as const) {
      coordinator.assign({ ref: ref(assignmentId), sessionId, ...(base === undefined ? {} : { base }) });
      await coordinator.until(() => coordinator.updates.has(assignmentId));
    }
    const kept = [bases[1], bases[2]].map((base) => `${base?.sha256}.safetensors`);
    expect((await readdir(join(bench.stateDir, 'models'))).sort()).toEqual(kept.sort());
  }));

test('a rejected update is not sent again, and its file goes', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.holdVerdicts = true;
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.from('base')) });
    await coordinator.until(() => coordinator.of('inlineUpdate').length === 1);
    coordinator.push({
      case: 'updateVerdict',
      value: {
        assignment: ref('a'),
        verdict: { case: 'rejected', value: { code: 'update_rejected', message: 'NaN' } },
      },
    });
    await coordinator.until(() => bench.log.some(({ message }) => message === 'update rejected: NaN'));
    await agent.stop();
    expect(await readdir(join(bench.stateDir, 'updates'))).toEqual([]);
    await (await bench.start()).ready;
    expect(coordinator.of('inlineUpdate')).toHaveLength(1);
  }));

test.each([
  ['over HTTP', { inlineMaxBytes: 1_000 }],
  ['over gRPC', { inlineMaxBytes: 1_000, offersHttp: false }],
  ['in a message', { inlineMaxBytes: 10_000_000 }],
])('the policy bounds what is fetched and sent together, %s', (_how, settings) =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    Object.assign(coordinator, settings);
    const waitsMs = [0];
    const sleep = async (delayMs: number): Promise<void> => void waitsMs.push(delayMs);
    const policy = { ...OPEN_POLICY, resources: { bandwidth_mbit: 0.8 } };
    const agent = await bench.start({ policy }, { clock: { ...systemClock, sleep } });
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.alloc(3_000_000, 7)) });
    await coordinator.until(() => coordinator.updates.has('a'));
    // Six million bytes at a hundred thousand a second: the last of them go a minute later.
    expect(Math.max(...waitsMs)).toBeGreaterThan(50_000);
    expect(Math.max(...waitsMs)).toBeLessThan(60_100);
  }),
);
