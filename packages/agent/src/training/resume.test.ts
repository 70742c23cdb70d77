import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { readCode } from '@octomil/shared/training';
import { type Bench, OPEN_POLICY, onBench } from '../testing/agent-under-test.js';

/** Stops an agent in the middle of an upload, which its next start takes up. */
async function cutUpload(bench: Bench, assigned: { taskJson?: string } = {}, settings = {}): Promise<void> {
  const { coordinator } = bench;
  coordinator.inlineMaxBytes = 1_000;
  coordinator.onHttp = (request) => /parts\/[23]$/.test(request.url ?? '');
  const agent = await bench.start(settings);
  await agent.ready;
  const base = coordinator.addObject(Buffer.alloc(250_000, 7));
  coordinator.assign({ ref: { assignmentId: 'a', attempt: 1 }, base, ...assigned });
  await coordinator.until(() => [...coordinator.tickets.values()][0]?.received.size === 2);
  await agent.stop();
  expect(await readdir(join(bench.stateDir, 'updates'))).toEqual(['a.1.safetensors']);
  coordinator.onHttp = () => false;
  coordinator.httpRequests.length = 0;
  coordinator.heard.length = 0;
}

test('an update of an earlier run does not leave once the site has withdrawn the rule that allowed it', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await cutUpload(bench);
    const others = { name: 'lung study', federations: ['lung'], models: ['*'], data_sets: ['*'] };
    await (await bench.start({ policy: { allow: [others] } })).ready;
    await coordinator.until(() => coordinator.updates.has('a') || coordinator.of('assignmentAnswer').length > 0);
    expect(coordinator.of('assignmentAnswer')[0]?.answer).toMatchObject({
      case: 'refused',
      value: { code: 'policy_denied', message: expect.stringContaining('"heart"') },
    });
    expect(coordinator.updates.size).toBe(0);
    expect(coordinator.of('ticketRequest')).toEqual([]);
    expect(coordinator.httpRequests).toEqual([]);
    expect(bench.log).toContainEqual(
      expect.objectContaining({ level: 'warn', message: expect.stringMatching(/earlier run is refused/) }),
    );
    expect(await readdir(join(bench.stateDir, 'updates'))).toEqual([]);
    expect((await bench.audit()).filter(({ details }) => (details as { resumed?: true })?.resumed)).toEqual([]);
  }));

test('nor once the rule lets out other columns than the update was made of', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const featureSpec = { columns: [{ name: 'age' }, { name: 'genome' }], target: { rule: { column: 'ill' } } };
    await cutUpload(bench, { taskJson: JSON.stringify({ trainer: 'echo', featureSpec }) });
    const [rule] = OPEN_POLICY.allow;
    await (await bench.start({ policy: { allow: [{ ...rule, columns: ['age', 'ill'] }] } })).ready;
    await coordinator.until(() => coordinator.updates.has('a') || coordinator.of('assignmentAnswer').length > 0);
    expect(coordinator.of('assignmentAnswer')[0]?.answer).toMatchObject({
      case: 'refused',
      value: { code: 'policy_denied', message: expect.stringContaining('"genome"') },
    });
    expect(coordinator.httpRequests).toEqual([]);
  }));

test('nor once the site no longer allows the code of its own that made it', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await writeFile(join(bench.stateDir, 'train.mjs'), 'export const train = () => undefined;');
    const settings = { data_sets: { patients: 'patients.csv' }, trainers: { mine: { module: './train.mjs' } } };
    const mine = bench.config(settings).trainers['mine'];
    if (mine === undefined) throw new TypeError('the trainer is configured');
    const { sha256 } = await readCode(mine);
    const policy = { ...OPEN_POLICY, code: { allow: [{ trainer: 'mine', sha256 }] } };
    const taskJson = JSON.stringify({ trainer: 'mine', architecture: {}, featureSpec: {}, holdout: {} });
    await cutUpload(bench, { taskJson }, { ...settings, policy });
    await (await bench.start(settings)).ready;
    await coordinator.until(() => coordinator.updates.has('a') || coordinator.of('assignmentAnswer').length > 0);
    expect(coordinator.of('assignmentAnswer')[0]?.answer).toMatchObject({
      case: 'refused',
      value: { code: 'policy_denied', message: expect.stringContaining(sha256) },
    });
    expect(coordinator.httpRequests).toEqual([]);
    expect(await readdir(join(bench.stateDir, 'updates'))).toEqual([]);
  }));

test('an upload of an earlier run is audited under the rule that allows it now', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await cutUpload(bench);
    const renamed = { name: 'renewed consent', federations: ['heart'], models: ['*'], data_sets: ['*'] };
    await (await bench.start({ policy: { allow: [renamed] } })).ready;
    await coordinator.until(() => coordinator.updates.has('a'));
    const updates = (await bench.audit()).filter(({ kind }) => kind === 'update');
    expect(updates.map(({ rule }) => rule)).toEqual(['heart study', 'renewed consent']);
  }));

test('a resumed upload that fails says so in one line and in the audit log', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await cutUpload(bench);
    coordinator.onHttp = (_request, response) => {
      response.writeHead(413).end(JSON.stringify({ code: 'too_large', message: 'too much\nat line 2' }));
      return true;
    };
    await (await bench.start()).ready;
    await coordinator.until(() => coordinator.of('assignmentFailure').length === 1);
    expect(coordinator.of('assignmentFailure')[0]?.problem).toMatchObject({ code: 'too_large', message: 'too much' });
    expect((await bench.audit()).filter(({ kind }) => kind === 'failure')).toMatchObject([
      {
        assignmentId: 'a',
        federation: 'heart',
        model: 'risk',
        round: 1,
        rule: 'heart study',
        details: { code: 'too_large', message: 'too much' },
      },
    ]);
  }));
