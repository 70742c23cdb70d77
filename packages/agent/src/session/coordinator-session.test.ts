import { chmod, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { SessionResponseSchema } from '@octomil/proto';
import { systemClock } from '@octomil/shared/runtime';
import { onBench } from '../testing/agent-under-test.js';

const ref = (assignmentId: string, attempt = 1) => ({ assignmentId, attempt });

test('a coordinator that is down at the start is waited for, with one log line', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await coordinator.stop();
    const agent = await bench.start();
    await coordinator.until(() => bench.log.filter(({ message }) => message === 'still not connected').length >= 3);
    expect(bench.log.filter(({ level }) => level === 'warn' || level === 'error')).toHaveLength(1);
    expect(agent.connected).toBe(false);
    await coordinator.start();
    await agent.ready;
    expect(agent.connected).toBe(true);
  }));

test('after a restart of the coordinator the session goes on: epoch, work in progress, update without a verdict', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.holdVerdicts = true;
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a'), base: coordinator.addObject(Buffer.from('base')) });
    await coordinator.until(() => coordinator.of('inlineUpdate').length === 1);
    await coordinator.stop();
    coordinator.holdVerdicts = false;
    await coordinator.start();
    await coordinator.until(() => coordinator.updates.has('a'));
    const [first, second] = coordinator.of('hello');
    expect(second).toMatchObject({ processId: first?.processId, lastEpoch: 1n, inProgress: [ref('a')] });
    expect(bench.trainer.tasks).toHaveLength(1);
  }));

test('a report that was given while nobody listened is given with the next session', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const gate = Promise.withResolvers<void>();
    trainer.gate = gate.promise;
    const agent = await bench.start({ data_sets: { patients: 'patients.csv' } });
    await agent.ready;
    coordinator.assign({ ref: ref('a'), kind: 'describe', taskJson: '{"target":"num"}' });
    await coordinator.until(() => trainer.tasks.length === 1);
    await coordinator.stop();
    coordinator.assignments.clear();
    gate.resolve();
    await coordinator.until(() => !agent.connected);
    await coordinator.start();
    await coordinator.until(() => coordinator.of('report').length === 1);
    expect(trainer.tasks).toHaveLength(1);
  }));

test('leases are renewed as often as told, naming the work in progress', () =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    Object.assign(coordinator, { leaseMs: 60, renewEveryMs: 20 });
    trainer.gate = new Promise(() => undefined);
    const agent = await bench.start();
    await agent.ready;
    coordinator.assign({ ref: ref('a', 3), base: coordinator.addObject(Buffer.from('base')) });
    await coordinator.until(() => coordinator.of('leaseRenewal').some(({ inProgress }) => inProgress.length === 1));
    expect(coordinator.of('leaseRenewal').at(-1)?.inProgress).toMatchObject([ref('a', 3)]);
  }));

test('a credential that stays in use is said clearly, and then tried seldom', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    coordinator.onHello = (stream) => {
      stream.write(
        create(SessionResponseSchema, {
          event: { case: 'superseded', value: { reason: { code: 'credential_in_use', message: 'held by host b' } } },
        }),
      );
      return true;
    };
    const sleeps: number[] = [];
    const clock = {
      ...systemClock,
      sleep: async (delayMs: number, signal?: AbortSignal) => {
        sleeps.push(delayMs);
        // Only the slow retry is waited for.
        if (delayMs > 10_000) await systemClock.sleep(delayMs, signal);
      },
    };
    await bench.start({}, { random: () => 0.5, clock });
    await coordinator.until(() => sleeps.includes(45_000));
    // At first it may be our own earlier process, which was killed: its lease runs out.
    expect(sleeps.slice(0, -1)).toEqual(Array.from({ length: 20 }, () => 1_500));
    expect(bench.log.filter(({ level }) => level === 'warn')).toHaveLength(1);
    expect(bench.log.filter(({ level }) => level === 'error').map(({ message }) => message)).toEqual([
      expect.stringMatching(/another agent uses this device credential.*held by host b/),
    ]);
  }));

test('a coordinator that is killed soon after each of its starts is never waited for longer than a second', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const sleeps: number[] = [];
    const clock = {
      ...systemClock,
      sleep: async (delayMs: number) => {
        sleeps.push(delayMs);
        // The agent goes on at once, but lets the others run.
        await systemClock.sleep(0);
      },
    };
    await bench.start({}, { random: () => 1, clock });
    const reason = { code: 'network_unavailable', message: 'killed' };
    for (let life = 1; life <= 40; life += 1) {
      await coordinator.until(() => coordinator.of('hello').length === life);
      coordinator.push({ case: 'superseded', value: { reason } });
    }
    await coordinator.until(() => sleeps.length >= 40);
    expect(Math.max(...sleeps)).toBe(1_000);
  }));

test('an older session that is superseded makes room and comes back at once', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const agent = await bench.start();
    await agent.ready;
    coordinator.push({ case: 'superseded', value: { reason: { code: 'superseded', message: 'stale epoch' } } });
    await coordinator.until(() => coordinator.of('hello').length === 2);
    expect(coordinator.of('hello')[1]?.lastEpoch).toBe(1n);
  }));

test('a rejected credential is an error in the log, and a new token enrols again', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const first = await bench.start();
    await first.ready;
    await first.stop();
    coordinator.credentials.clear();
    const second = await bench.start({}, { clock: { ...systemClock, sleep: async () => undefined } });
    await second.ready;
    expect(coordinator.usedTokens.size).toBe(2);
    expect(bench.log.some(({ level, message }) => level === 'error' && message.includes('enrol again'))).toBe(true);
  }));

test('a credential that others could read is refused, and so is the folder of another device', () =>
  onBench(async (bench) => {
    const agent = await bench.start();
    await agent.ready;
    await agent.stop();
    const other = await bench.start({ device_identifier: 'hospital-002' });
    await coordinatorLog(bench, /belongs to device "hospital-001"/);
    await other.stop();
    await chmod(join(bench.stateDir, 'credential.json'), 0o644);
    const open = await bench.start();
    await coordinatorLog(bench, /has mode 644/);
    expect(open.connected).toBe(false);
    expect(await readdir(bench.stateDir)).toContain('credential.json');
  }));

async function coordinatorLog(
  bench: { coordinator: { until(c: () => boolean): Promise<void> }; log: { fields: object }[] },
  text: RegExp,
) {
  await bench.coordinator.until(() =>
    bench.log.some(({ fields }) => text.test(String((fields as { error?: unknown }).error))),
  );
}

test("what the coordinator objects to is in the agent's log", () =>
  onBench(async (bench) => {
    const agent = await bench.start();
    await agent.ready;
    bench.coordinator.push({
      case: 'problemNotice',
      value: { problem: { code: 'invalid_input', message: 'bad summary' } },
    });
    await bench.coordinator.until(() => bench.log.some(({ message }) => message.includes('bad summary')));
    expect(agent.connected).toBe(true);
  }));
