import { stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { setPaused } from './policy/paused.js';
import { OPEN_POLICY, onBench } from './testing/agent-under-test.js';
import { sha256Of } from './testing/fake-coordinator.js';

const ref = (assignmentId: string, attempt = 1) => ({ assignmentId, attempt });

test('enrols once, keeps the credential to itself, and uses it after a restart', () =>
  onBench(async (bench) => {
    const agent = await bench.start({ labels: { region: 'north' } });
    await agent.ready;
    expect(agent.deviceId).toBe('id-hospital-001');
    expect((await stat(join(bench.stateDir, 'credential.json'))).mode & 0o777).toBe(0o600);
    expect((await stat(bench.stateDir)).mode & 0o777).toBe(0o700);
    await agent.stop();

    const again = await bench.start({ enrollment_token: undefined });
    await again.ready;
    expect(bench.coordinator.usedTokens.size).toBe(1);
    const [first, second] = bench.coordinator.of('hello');
    expect(first?.site?.labels).toEqual({ region: 'north' });
    expect(second?.processId).not.toBe(first?.processId);
  }));

test('a running site tells that it is paused and that it goes on, and says so when it connects', () =>
  onBench(async (bench) => {
    const agent = await bench.start();
    await agent.ready;
    const told = () => bench.coordinator.of('siteSummary').at(-1)?.paused;
    await setPaused(bench.stateDir, true);
    await bench.coordinator.until(() => told() === true);
    await setPaused(bench.stateDir, false);
    await bench.coordinator.until(() => told() === false);
    await setPaused(bench.stateDir, true);
    await agent.stop();
    const again = await bench.start({ enrollment_token: undefined });
    await again.ready;
    expect(bench.coordinator.of('hello').map(({ site }) => site?.paused)).toEqual([false, true]);
  }));

test('a token that was used elsewhere ends the agent with its code', () =>
  onBench(async (bench) => {
    const token = bench.coordinator.token();
    bench.coordinator.usedTokens.add(token);
    const agent = await bench.start({ enrollment_token: token });
    await expect(agent.ready).rejects.toMatchObject({ code: 'enrollment_token_used' });
    await expect(agent.finished).rejects.toMatchObject({ code: 'enrollment_token_used' });
  }));

test('without a token and without a credential the agent says how to get one', () =>
  onBench(async (bench) => {
    const agent = await bench.start({ enrollment_token: undefined });
    await expect(agent.ready).rejects.toThrow(/octomil enroll/);
  }));

test('a second agent on the same folder is refused', () =>
  onBench(async (bench) => {
    const agent = await bench.start();
    await agent.ready;
    await expect(bench.start()).rejects.toMatchObject({ code: 'store_locked' });
  }));

test('a small update goes over the stream, under an audit entry that names its rule', () =>
  onBench(async (bench) => {
    const agent = await bench.start();
    await agent.ready;
    const base = bench.coordinator.addObject(Buffer.alloc(50_000, 3));
    bench.coordinator.assign({ ref: ref('a'), base });
    await bench.coordinator.until(() => bench.coordinator.updates.has('a'));
    const update = bench.coordinator.updates.get('a');
    expect(update?.bytes.at(-1)).toBe(4);
    expect(update?.header).toMatchObject({ format: 'delta', sampleCount: 40n });
    expect(JSON.parse(update?.header.metricsJson ?? '')).toMatchObject({ backend: 'echo', evaluation: null });
    const entries = await bench.audit();
    expect(entries.map(({ kind }) => kind)).toEqual(['enrollment', 'site_summary', 'update']);
    // All that the coordinator is told of the site, not only the names of rules.
    expect(entries[1]).toMatchObject({
      details: {
        machine: { hostName: hostname(), platform: process.platform, trainers: ['tfjs', 'echo'] },
        policyRules: [{ name: 'heart study', federations: expect.anything(), models: expect.anything() }],
      },
    });
    expect(entries[2]).toMatchObject({
      rule: 'heart study',
      federation: 'heart',
      model: 'risk',
      round: 1,
      sha256: update?.header.sha256,
      sizeBytes: 50_000,
      sampleCount: 40,
    });
  }));

test('a refusal is told to both sides with what is missing', () =>
  onBench(async (bench) => {
    const agent = await bench.start();
    await agent.ready;
    bench.coordinator.assign({ ref: ref('a'), federation: 'lungs' });
    await bench.coordinator.until(() => bench.coordinator.of('assignmentAnswer').length === 1);
    const [answer] = bench.coordinator.of('assignmentAnswer');
    expect(answer?.answer.case).toBe('refused');
    const refused = answer?.answer.case === 'refused' ? answer.answer.value : undefined;
    expect(refused).toMatchObject({ code: 'policy_denied', message: expect.stringContaining('"lungs"') });
    expect(JSON.parse(refused?.detailsJson ?? '')).toMatchObject({ missing: 'federation', federation: 'lungs' });
    expect(bench.log.some(({ level, message }) => level === 'warn' && message.includes('"lungs"'))).toBe(true);
    expect(bench.trainer.tasks).toEqual([]);
  }));

test('questions about the columns beyond the allowed number are refused by their rule; those answered stay answered', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const settings = { data_sets: { patients: 'patients.csv' }, policy: { ...OPEN_POLICY, max_questions: 2 } };
    const agent = await bench.start(settings);
    await agent.ready;
    const ask = (id: string, target: string) =>
      coordinator.assign({ ref: ref(id), kind: 'describe', taskJson: JSON.stringify({ target }) });
    ask('a', 'age>50');
    ask('b', 'age>51');
    await coordinator.until(() => coordinator.of('report').length === 2);
    await agent.stop();

    await (await bench.start(settings)).ready;
    ask('c', 'age>52');
    const refused = () =>
      coordinator.of('assignmentAnswer').flatMap(({ answer }) => (answer.case === 'refused' ? [answer.value] : []));
    await coordinator.until(() => refused().length === 1);
    expect(refused()[0]).toMatchObject({
      code: 'policy_denied',
      message: expect.stringContaining('rule max_questions_per_data_digest'),
    });
    expect(bench.log.some(({ level, message }) => level === 'warn' && message.includes('assignment refused'))).toBe(
      true,
    );
    ask('d', 'age>50');
    await coordinator.until(() => coordinator.of('report').length === 3);
    expect(bench.trainer.tasks).toHaveLength(2);
  }));

test('training and evaluation ask by their target too: beyond the allowed number they are refused, but not what was described', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const settings = { data_sets: { patients: 'patients.csv' }, policy: { ...OPEN_POLICY, max_questions: 1 } };
    await (await bench.start(settings)).ready;
    coordinator.assign({ ref: ref('a'), kind: 'describe', taskJson: JSON.stringify({ target: 'age>50' }) });
    await coordinator.until(() => coordinator.of('report').length === 1);
    const work = (id: string, kind: string, value: number) => {
      const rule = { column: 'age', comparison: '>', value };
      const featureSpec = { columns: [{ name: 'chol', missingMarkers: [0] }], target: { rule, missingMarkers: [] } };
      const options = { epochs: 1, batchSize: 16, learningRate: 0.1, optimizer: 'sgd', seed: 1, proximalMu: 0 };
      coordinator.assign({
        ref: ref(id),
        kind,
        base: coordinator.addObject(Buffer.from('base')),
        taskJson: JSON.stringify({ trainer: 'tfjs', architecture: {}, featureSpec, holdout: {}, options }),
      });
    };
    work('b', 'evaluate', 50);
    work('c', 'train', 50);
    await coordinator.until(() => coordinator.of('report').length === 2 && coordinator.updates.has('c'));
    work('d', 'evaluate', 51);
    work('e', 'train', 51);
    const refused = () =>
      coordinator.of('assignmentAnswer').flatMap(({ answer }) => (answer.case === 'refused' ? [answer.value] : []));
    await coordinator.until(() => refused().length === 2);
    for (const problem of refused()) {
      expect(problem).toMatchObject({ code: 'policy_denied', message: expect.stringContaining('max_questions') });
    }
    expect(bench.trainer.tasks.map(({ kind }) => kind)).toHaveLength(3);
  }));

test('statistics and evaluations are reported, and repeated from the journal without being made again', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const agent = await bench.start({ data_sets: { patients: 'patients.csv' } });
    await agent.ready;
    const task = { taskJson: '{"target":"num>0"}', kind: 'describe' };
    coordinator.assign({ ref: ref('a'), ...task });
    await coordinator.until(() => coordinator.of('report').length === 1);
    expect(bench.trainer.tasks).toMatchObject([
      {
        kind: 'describe',
        target: { column: 'num', comparison: '>', value: 0 },
        source: { path: join(bench.stateDir, 'patients.csv') },
      },
    ]);
    coordinator.assign({ ref: ref('a'), ...task });
    await coordinator.until(() => coordinator.of('report').length === 2);
    expect(coordinator.of('report')[1]?.json).toBe(coordinator.of('report')[0]?.json);
    expect(bench.trainer.tasks).toHaveLength(1);

    coordinator.assign({
      ref: ref('b'),
      kind: 'evaluate',
      base: coordinator.addObject(Buffer.from('base')),
      taskJson: JSON.stringify({ architecture: {}, featureSpec: {}, holdout: {} }),
    });
    await coordinator.until(() => coordinator.of('report').length === 3);
    expect(JSON.parse(coordinator.of('report')[2]?.json ?? '')).toMatchObject({ count: 24, accuracy: 0.75 });
    expect((await bench.audit()).map(({ kind }) => kind).slice(-2)).toEqual(['statistics', 'evaluation']);
  }));

test('a failure names its code and keeps folders and output of the trainer at the site', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const { OctomilError } = await import('@octomil/shared/errors');
    const path = join(bench.stateDir, 'patients.csv');
    trainer.failure = new OctomilError('data_unreadable', `${path}, line 7: 3 cells where 4 are due\nrow: 61,1,secret`);
    const agent = await bench.start({ data_sets: { patients: path } });
    await agent.ready;
    coordinator.assign({ ref: ref('a'), kind: 'describe', taskJson: '{"target":"num"}' });
    await coordinator.until(() => coordinator.of('assignmentFailure').length === 1);
    expect(coordinator.of('assignmentFailure')[0]?.problem).toMatchObject({
      code: 'data_unreadable',
      message: 'patients.csv, line 7: 3 cells where 4 are due',
      detailsJson: '',
    });
  }));

test('a flood of assignments that fail fills no audit log, and what is not in it does not leave', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await (await bench.start()).ready;
    const federation = (index: number): string => `stranger ${index}`;
    for (let index = 0; index < 45; index++) {
      coordinator.assign({ ref: ref(`flood-${index}`), federation: federation(index), taskJson: '[' });
    }
    await coordinator.until(() => coordinator.of('assignmentFailure').length === 45);
    const messages = coordinator.of('assignmentFailure').map(({ problem }) => problem?.message);
    expect(messages.filter((message) => message?.includes('task_json is not a JSON object'))).toHaveLength(30);
    expect(messages.filter((message) => message?.includes("the reason is in the agent's own log"))).toHaveLength(15);
    expect((await bench.audit()).filter(({ kind }) => kind === 'failure')).toHaveLength(31);
    expect(bench.log.filter(({ message }) => message.includes('task_json is not a JSON object'))).toHaveLength(45);
  }));

test('a cancelled assignment stops its work and sends nothing', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const agent = await bench.start();
    await agent.ready;
    trainer.gate = new Promise(() => undefined);
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.from('base')) });
    await coordinator.until(() => trainer.tasks.length === 1);
    coordinator.assignments.delete('a');
    coordinator.push({
      case: 'assignmentCancelled',
      value: { assignment: ref('a'), reason: { code: 'cancelled', message: 'the round was cancelled' } },
    });
    await coordinator.until(() => bench.log.some(({ message }) => message.includes('the round was cancelled')));
    trainer.gate = Promise.resolve();
    coordinator.assign({ ref: ref('b'), base: coordinator.addObject(Buffer.from('base')) });
    await coordinator.until(() => coordinator.updates.has('b'));
    expect(coordinator.updates.has('a')).toBe(false);
    expect(coordinator.of('assignmentFailure')).toEqual([]);
  }));

test('a repeated assignment is worked on once, and a newer attempt takes the place of an older one', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const agent = await bench.start();
    await agent.ready;
    const gate = Promise.withResolvers<void>();
    trainer.gate = gate.promise;
    const base = coordinator.addObject(Buffer.from('base'));
    coordinator.assign({ ref: ref('a', 1), base });
    coordinator.assign({ ref: ref('a', 1), base });
    await coordinator.until(() => coordinator.of('assignmentAnswer').length >= 2 && trainer.tasks.length === 1);
    coordinator.assign({ ref: ref('a', 2), base });
    await coordinator.until(() => trainer.tasks.length === 2);
    gate.resolve();
    await coordinator.until(() => coordinator.updates.has('a'));
    expect(coordinator.of('inlineUpdate').map(({ header }) => header?.assignment?.attempt)).toEqual([2]);
  }));

test('one base is fetched once for several assignments', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const agent = await bench.start();
    await agent.ready;
    const base = coordinator.addObject(Buffer.alloc(300_000, 1));
    for (const id of ['a', 'b', 'c']) coordinator.assign({ ref: ref(id), base });
    await coordinator.until(() => coordinator.updates.size === 3);
    expect(coordinator.httpRequests).toEqual([`GET /api/v1/transfers/objects/${base.sha256}`]);
    expect(sha256Of(coordinator.objects.get(base.sha256) ?? Buffer.alloc(0))).toBe(base.sha256);
  }));

test('a table that takes long to describe keeps its assignment: the site says that it is at work', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const gate = Promise.withResolvers<void>();
    trainer.gate = gate.promise;
    const agent = await bench.start({ data_sets: { patients: join(bench.stateDir, 'patients.csv') } });
    await agent.ready;
    coordinator.assign({ ref: ref('a'), kind: 'describe', taskJson: '{"target":"num"}', noProgressMs: 3_300n });
    await coordinator.until(() => coordinator.of('progress').length >= 2);
    expect(coordinator.of('progress')[0]).toMatchObject({ assignment: ref('a'), phase: 'load' });
    gate.resolve();
    await coordinator.until(() => coordinator.of('report').length === 1);
  }));

test('a round may last longer than a timer can wait', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const opened = Promise.withResolvers<void>();
    trainer.gate = opened.promise;
    await (await bench.start()).ready;
    const base = coordinator.addObject(Buffer.alloc(1_000, 7));
    coordinator.assign({ ref: ref('a'), base, deadlineMs: BigInt(30 * 86_400_000) });
    await coordinator.until(() => trainer.tasks.length === 1);
    setTimeout(opened.resolve, 100);
    await coordinator.until(() => coordinator.updates.has('a') || coordinator.of('assignmentFailure').length > 0);
    expect(coordinator.of('assignmentFailure')).toEqual([]);
  }));
