import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { AssignmentSchema } from '@octomil/proto';
import { entryPoint } from '@octomil/shared/runtime';
import { decodeWeights } from '@octomil/shared/tensors';
import { type Bench, OPEN_POLICY, onBench } from '../testing/agent-under-test.js';
import { toTrainerTask } from './task.js';

const SESSION = 'session-1';
const folderOf = (bench: Bench): string => join(bench.stateDir, 'control-variates', SESSION);

/** A task of round `round`, from a base of its own. */
function assign(bench: Bench, assignmentId: string, round: number, controlVariates: object): void {
  const { coordinator } = bench;
  const task = {
    ...{ trainer: 'tfjs', architecture: { name: 'logistic' }, featureSpec: { columns: [] }, holdout: {} },
    ...{ options: { optimizer: 'sgd' }, controlVariates },
  };
  coordinator.assign({
    ref: { assignmentId, attempt: 1 },
    ...{ sessionId: SESSION, roundNumber: round, taskJson: JSON.stringify(task) },
    base: coordinator.addObject(Buffer.alloc(2_000, assignmentId)),
  });
}

async function updateOf({ coordinator }: Bench, assignmentId: string): Promise<string> {
  await coordinator.until(() => coordinator.updates.has(assignmentId));
  return coordinator.updates.get(assignmentId)?.header.sha256 ?? '';
}

/** How many updates in a row the control variate of this one counts on, itself included. */
async function countOf(bench: Bench, sha256: string): Promise<number | undefined> {
  const bytes = await readFile(join(folderOf(bench), `${sha256}.safetensors`));
  return decodeWeights(bytes)[0]?.data[0];
}

function spawnAgent(bench: Bench, token: string): ChildProcess {
  const entry = entryPoint(import.meta.url, '../testing/agent-child');
  const settings = {
    ...{ coordinator: bench.coordinator.address, device_identifier: 'hospital-001', enrollment_token: token },
    ...{ state_dir: bench.stateDir, policy: OPEN_POLICY, stop_grace_seconds: 1 },
    data_sets: { default: join(bench.stateDir, 'site.csv') },
  };
  return spawn(process.execPath, [...entry.execArgv, entry.path, JSON.stringify(settings)], { stdio: 'ignore' });
}

async function kill(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}

test(
  'an agent that is killed between upload and verdict goes on from what the coordinator counts on, whatever that is',
  () =>
    onBench(async (bench) => {
      const { coordinator } = bench;
      coordinator.inlineMaxBytes = 100;
      await writeFile(join(bench.stateDir, 'site.csv'), 'a,y\n1,0\n');
      const token = coordinator.token();
      let child = spawnAgent(bench, token);
      try {
        assign(bench, 'one', 1, {});
        const one = await updateOf(bench, 'one');
        expect(await countOf(bench, one)).toBe(1);

        // All parts of the second arrive; that it is accepted, the agent does not learn.
        let unheard = 0;
        coordinator.onHttp = (request) => {
          if (!/complete/.test(request.url ?? '')) return false;
          unheard += 1;
          return true;
        };
        assign(bench, 'two', 2, { ofUpdate: one });
        await coordinator.until(() => unheard > 0);
        const two = [...coordinator.tickets.values()].at(-1)?.header.sha256 ?? '';
        expect(await countOf(bench, two)).toBe(2);
        expect((await readdir(folderOf(bench))).sort()).toEqual([one, two].map((sha) => `${sha}.safetensors`).sort());
        await kill(child);
        coordinator.onHttp = () => false;
        child = spawnAgent(bench, token);
        await updateOf(bench, 'two');

        // Its round failed for another reason, so the second counts for nothing, though it was accepted.
        assign(bench, 'two-again', 2, { ofUpdate: one });
        const again = await updateOf(bench, 'two-again');
        expect(await countOf(bench, again)).toBe(2);
        assign(bench, 'three', 3, { ofUpdate: again });
        const three = await updateOf(bench, 'three');
        expect(await countOf(bench, three)).toBe(3);
        expect((await readdir(folderOf(bench))).sort()).toEqual(
          [again, three].map((sha) => `${sha}.safetensors`).sort(),
        );
      } finally {
        await kill(child);
      }
    }),
  180_000,
);

test('what is lost or damaged is told, and training begins with zeros', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await writeFile(join(bench.stateDir, 'site.csv'), 'a,y\n1,0\n');
    const agent = await bench.start({ data_sets: { default: join(bench.stateDir, 'site.csv') } });
    await agent.ready;
    assign(bench, 'one', 1, {});
    const one = await updateOf(bench, 'one');
    assign(bench, 'two', 2, { ofUpdate: one });
    const two = await updateOf(bench, 'two');
    const path = join(folderOf(bench), `${two}.safetensors`);
    await writeFile(path, (await readFile(path)).subarray(0, 20));
    assign(bench, 'three', 3, { ofUpdate: two });
    const three = await updateOf(bench, 'three');
    expect(await countOf(bench, three)).toBe(1);
    const metricsOf = (id: string): unknown => JSON.parse(coordinator.updates.get(id)?.header.metricsJson ?? '');
    expect(metricsOf('two')).not.toHaveProperty('controlVariateLost');
    expect(metricsOf('three')).toMatchObject({ controlVariateLost: true });
    await rm(folderOf(bench), { recursive: true });
    assign(bench, 'four', 4, { ofUpdate: three });
    await updateOf(bench, 'four');
    expect(metricsOf('four')).toMatchObject({ controlVariateLost: true });
    assign(bench, 'five', 5, {});
    const five = await updateOf(bench, 'five');
    expect(metricsOf('five')).not.toHaveProperty('controlVariateLost');
    expect(await countOf(bench, five)).toBe(1);
  }));

test('the server’s is fetched beside the base; sessions that ended long ago are forgotten', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await writeFile(join(bench.stateDir, 'site.csv'), 'a,y\n1,0\n');
    const stale = join(bench.stateDir, 'control-variates', 'stale');
    await mkdir(stale, { recursive: true });
    await utimes(stale, 1, 1);
    const agent = await bench.start({ data_sets: { default: join(bench.stateDir, 'site.csv') } });
    await agent.ready;
    const bytes = Buffer.alloc(300, 9);
    const { sha256 } = coordinator.addObject(bytes);
    assign(bench, 'one', 2, { server: { sha256, sizeBytes: bytes.length } });
    await updateOf(bench, 'one');
    const [task] = bench.trainer.tasks.slice(-1) as { controlVariates?: { serverPath?: string } }[];
    const read = await readFile(task?.controlVariates?.serverPath ?? '');
    expect(createHash('sha256').update(read).digest('hex')).toBe(sha256);
    expect(await readdir(join(bench.stateDir, 'control-variates'))).toEqual([SESSION]);
  }));

test('of the sessions that a coordinator names the newest are kept, and of one session’s files', () =>
  onBench(async (bench) => {
    await writeFile(join(bench.stateDir, 'site.csv'), 'a,y\n1,0\n');
    const folder = join(bench.stateDir, 'control-variates');
    const nowSeconds = Date.now() / 1_000;
    for (let age = 1; age <= 40; age++) {
      await mkdir(join(folder, `aged-${age}`), { recursive: true });
      await utimes(join(folder, `aged-${age}`), nowSeconds - 60 * age, nowSeconds - 60 * age);
    }
    await (await bench.start({ data_sets: { default: join(bench.stateDir, 'site.csv') } })).ready;
    const go = Promise.withResolvers<void>();
    bench.trainer.gate = go.promise;
    for (let index = 0; index < 12; index++) assign(bench, `at-once-${index}`, 1, {});
    await bench.coordinator.until(() => bench.trainer.tasks.length === 12);
    const left = Array.from({ length: 31 }, (_, index) => `aged-${index + 1}`);
    expect(new Set(await readdir(folder))).toEqual(new Set([SESSION, ...left]));
    go.resolve();
    for (let index = 0; index < 12; index++) await updateOf(bench, `at-once-${index}`);
    expect((await readdir(folderOf(bench))).length).toBeLessThanOrEqual(8);
  }));

test('code of the site’s own does not train by it', () => {
  const json = { trainer: 'mine', architecture: {}, featureSpec: {}, holdout: {} };
  const places = {
    ...{ source: { path: 'site.csv' }, basePath: 'base', outputPath: 'update' },
    own: { code: { kind: 'module' as const, path: 'train.js' } as never, sha256: 'a'.repeat(64), workPath: 'work' },
    controlVariates: { ownOutputPath: 'own' },
  };
  const assignment = create(AssignmentSchema, { kind: 'train', updateFormat: 'delta' });
  expect(() => toTrainerTask(assignment, json, places)).toThrow(/training_not_supported.*scaffold.*"mine"/);
});

test.each([
  [{ ofUpdate: '../../credential' }, /invalid_input|controlVariates\.ofUpdate/],
  [{ server: { sha256: 'x', sizeBytes: 3 } }, /controlVariates\.server/],
  [{ server: { sha256: 'a'.repeat(64) } }, /controlVariates\.server/],
])('a task with %j fails by its name', (controlVariates, message) =>
  onBench(async (bench) => {
    await writeFile(join(bench.stateDir, 'site.csv'), 'a,y\n1,0\n');
    await (await bench.start({ data_sets: { default: join(bench.stateDir, 'site.csv') } })).ready;
    assign(bench, 'one', 1, controlVariates);
    await bench.coordinator.until(() => bench.coordinator.of('assignmentFailure').length > 0);
    expect(bench.coordinator.of('assignmentFailure')[0]?.problem?.message).toMatch(message);
  }),
);
