import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { openLocalAgent } from '../http/local-agent.js';
import { onBench } from '../testing/agent-under-test.js';
import { FakeConditions } from '../testing/deployment-bench.js';
import { pointerOf, versionOn } from '../testing/desired-versions.js';

test.each(['http', 'grpc'])('an agent follows what is desired, over %s, and keeps one copy on disk', (transport) =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.offersHttp = transport === 'http';
    await (await bench.start()).ready;
    const weights = Buffer.alloc(300_000, 7);
    coordinator.desire(versionOn(bench, '1', weights));
    await coordinator.until(() => coordinator.observed('m1')?.state === 'active');
    expect(coordinator.downloadsByGrpc).toBe(transport === 'http' ? 0 : 2);
    const path = join(bench.stateDir, 'deployed/m1/v-1/weights.safetensors');
    expect((await readFile(path)).equals(weights)).toBe(true);
    expect((await stat(path)).nlink).toBe(2);
    expect((await pointerOf(bench)).active.versionId).toBe('v-1');

    // Training on the same weights fetches them no more.
    const requests = coordinator.httpRequests.length;
    coordinator.assign({ ref: { assignmentId: 'a', attempt: 1 }, base: coordinator.addObject(weights) });
    await coordinator.until(() => coordinator.updates.has('a'));
    expect(coordinator.httpRequests.filter((line) => line.startsWith('GET')).length).toBe(
      transport === 'http' ? requests : 0,
    );
    expect(coordinator.downloadsByGrpc).toBe(transport === 'http' ? 0 : 2);
  }),
);

test('the coordinator away in the middle of a download: it goes on where it was, and everything is told after', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await (await bench.start()).ready;
    let cut = true;
    const ranges: (string | undefined)[] = [];
    const version = versionOn(bench, '1', Buffer.alloc(3_000_000, 7));
    coordinator.onHttp = (request, response) => {
      ranges.push(request.headers.range);
      if (!cut || !request.url?.endsWith(version.artifacts[1]?.sha256 ?? '')) return false;
      response.writeHead(200, { 'content-length': 3_000_000 }).write(Buffer.alloc(2_000_000, 7));
      setTimeout(() => void coordinator.stop(), 50);
      return true;
    };
    coordinator.desire(version);
    await coordinator.until(() => coordinator.streams.size === 0);
    cut = false;
    coordinator.heard.length = 0;
    await coordinator.start();
    await coordinator.until(() => coordinator.observed('m1')?.state === 'active');
    expect(ranges.at(-1)).toMatch(/^bytes=[1-9]\d*-$/);
    expect(coordinator.of('observedState').some(({ models }) => models.some(({ state }) => state === 'failed'))).toBe(
      false,
    );
  }));

test('a version whose bytes are wrong is failed, and what is active stays', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await (await bench.start()).ready;
    coordinator.desire(versionOn(bench, '1', Buffer.alloc(1_000, 1)));
    await coordinator.until(() => coordinator.observed('m1')?.state === 'active');
    const version = versionOn(bench, '2', Buffer.alloc(1_000, 2), 2n);
    coordinator.objects.set(version.artifacts[1]?.sha256 ?? '', Buffer.alloc(1_000, 3));
    coordinator.desire(version);
    await coordinator.until(() => coordinator.observed('m1')?.state === 'failed');
    expect(coordinator.observed('m1')).toMatchObject({
      activeVersionId: 'v-1',
      rolloutId: 2n,
      problem: { code: 'checksum_mismatch' },
    });
    expect((await pointerOf(bench)).active.versionId).toBe('v-1');
  }));

test('training is refused while its conditions are not met, naming rule and value; describing is not', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const conditions = new FakeConditions();
    conditions.facts = { charging: false };
    const settings = { conditions: { training: { charging: true } }, data_sets: { patients: 'patients.csv' } };
    await (await bench.start(settings, { conditions })).ready;
    const base = coordinator.addObject(Buffer.alloc(1_000, 1));
    coordinator.assign({ ref: { assignmentId: 'a', attempt: 1 }, base });
    await coordinator.until(() => coordinator.of('assignmentAnswer').length === 1);
    const [answer] = coordinator.of('assignmentAnswer');
    const refused = answer?.answer.case === 'refused' ? answer.answer.value : undefined;
    expect(refused).toMatchObject({ code: 'conditions_not_met', message: expect.stringContaining('battery') });
    expect(JSON.parse(refused?.detailsJson ?? '')).toEqual({
      activity: 'training',
      rule: 'charging',
      value: false,
      limit: true,
    });
    coordinator.assign({ ref: { assignmentId: 'b', attempt: 1 }, kind: 'describe', taskJson: '{"target":"num"}' });
    await coordinator.until(() => coordinator.of('report').length === 1);
    conditions.facts = { charging: true };
    coordinator.assign({ ref: { assignmentId: 'c', attempt: 1 }, base });
    await coordinator.until(() => coordinator.updates.has('c'));
  }));

test('a program on the machine reports its inferences under the token of the state folder, and nobody else', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const agent = await bench.start();
    await agent.ready;
    const path = join(bench.stateDir, 'local-api.json');
    await expect(stat(path)).rejects.toThrow('ENOENT');
    await expect(openLocalAgent(bench.stateDir)).rejects.toMatchObject({ code: 'runtime_unavailable' });
    coordinator.desire({ ...versionOn(bench, '1', Buffer.alloc(1_000, 1)), activation: 'manual' });
    await coordinator.until(() => coordinator.observed('m1')?.state === 'waiting');
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const { url, token } = JSON.parse(await readFile(path, 'utf8')) as { url: string; token: string };
    const post = async (route: string, body: unknown, bearer = token): Promise<[number, unknown]> => {
      const response = await fetch(`${url}${route}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${bearer}` },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      });
      return [response.status, await response.json()];
    };
    expect(await post('/v1/activate', {})).toMatchObject([400, { code: 'invalid_input' }]);
    const local = await openLocalAgent(bench.stateDir);
    await expect(local.activate('lungs')).rejects.toMatchObject({ code: 'not_found' });
    await local.activate('risk');
    await coordinator.until(() => coordinator.observed('m1')?.state === 'active');
    const report = (version: string, latency: unknown) => ({
      model_id: 'm1',
      version_id: version,
      latency_ms: latency,
      failed: false,
    });
    const answer = { modelId: 'm1', latencyMs: 12, failed: false };
    expect(
      await local.report([
        { ...answer, versionId: 'v-1' },
        { ...answer, versionId: 'v-0' },
      ]),
    ).toBe(1);
    const failures: [string, unknown, string?][] = [
      ['/v1/inference-report', { reports: [report('v-1', -1)] }],
      ['/v1/inference-report', '{'],
      ['/v1/inference-report', { reports: Array(1_001).fill(report('v-1', 1)) }],
      ['/v1/inference-report', ' '.repeat(300_000)],
      ['/v1/inference-report', { reports: [report('v-1', 12)] }, 'guessed'],
      ['/v1/activate', { model: 'm2' }],
    ];
    const statuses: number[] = [];
    for (const [route, body, bearer] of failures) statuses.push((await post(route, body, bearer))[0]);
    expect(statuses).toEqual([400, 400, 400, 413, 401, 404]);
    await coordinator.until(() => coordinator.observed('m1')?.healthJson.includes('"inferences":1,') === true);
    await agent.stop();
    await expect(stat(path)).rejects.toThrow('ENOENT');
    await expect(local.activate('risk')).rejects.toMatchObject({ code: 'runtime_unavailable' });
  }));
