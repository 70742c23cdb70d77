import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, jest, test } from '@jest/globals';
import { type Agent, parseAgentConfig, startAgent } from '@octomil/agent';
import { startFleet } from '../fleet/fleet.js';
import { RecordedLog } from './recorded-log.js';
import { SmallDisk } from './small-disk.js';

jest.setTimeout(60_000);

const disk = SmallDisk.mount(8);
const onDisk = disk === undefined ? test.skip : test;
const skipped = disk === undefined ? ' (skipped: this user cannot mount a disk)' : '';
afterAll(() => disk?.unmount());

const ECHO = {
  model: 'risk',
  architecture: 'logistic',
  trainer: 'echo',
  rounds: 2,
  seed: 7,
  baseVersion: 'initial',
} as const;
/** Inputs of the model: 400 kB of weights. */
const WIDTH = { input_width: 100_000 };

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 50));
}

onDisk(
  `the coordinator's objects${skipped}: both sides say so, nothing is half-written, and with room it goes on`,
  async () => {
    if (disk === undefined) return;
    const log = new RecordedLog();
    const folder = join(disk.folder, 'used', 'objects');
    const environment = { OBJECT_STORE_URL: `file://${folder}` };
    const fleet = await startFleet({ agents: 2, logger: log.logger, coordinator: { environment } });
    try {
      const { modelId } = await startEcho();
      // Each agent keeps its update and asks again; the coordinator says which disk it is.
      await until(() => log.complaints('site-1').some((message) => /the disk of .* is full/.test(message)));
      expect(
        log.lines.some(
          ({ level, fields }) =>
            level === 'error' &&
            /insufficient_storage/.test(String((fields['error'] as { code?: unknown } | undefined)?.code)),
        ),
      ).toBe(true);
      const upload = fleet.registry.uploadVersion({
        ...{ modelId: 'risk', version: '9.0.0', fileName: 'weights.safetensors' },
        content: new Blob([new Uint8Array(500_000)]),
      });
      await expect(upload).rejects.toMatchObject({ status: 507, code: 'insufficient_storage' });
      expect(await readdir(join(folder, 'temporary'))).toEqual([]);
      await disk.free();
      await until(async () => (await fleet.federation().sessions())[0]?.status === 'completed');
      const versions = await fleet.registry.versions('risk');
      expect(versions).toHaveLength(1);
      expect(modelId).toBeDefined();
    } finally {
      await disk.free();
      await fleet.stop();
    }

    async function startEcho(): Promise<{ modelId: string }> {
      const model = await fleet.registry.ensureModel({ name: 'risk' });
      // Room for the base, and for no update after it.
      await disk?.fill(700_000);
      const id = await fleet.federation().id();
      const body = {
        model: 'risk',
        federation: id,
        architecture: 'logistic',
        trainer: 'echo',
        rounds: 2,
        min_updates: 2,
        ...WIDTH,
      };
      const answer = await fetch(`${fleet.apiBase}/training/sessions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${fleet.apiKey}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      expect(answer.status).toBe(201);
      return { modelId: model.id };
    }
  },
);

onDisk(
  `an agent's state folder${skipped}: the session pauses by its name and reason; with room it is resumed`,
  async () => {
    if (disk === undefined) return;
    const log = new RecordedLog();
    const fleet = await startFleet({ agents: 1 });
    let agent: Agent | undefined;
    try {
      await fleet.registry.ensureModel({ name: 'risk' });
      const { token } = await fleet.organization.createEnrollmentToken();
      const state = join(disk.folder, 'used', 'state');
      const file = {
        coordinator: fleet.grpcAddress,
        device_identifier: 'cramped',
        enrollment_token: String(token),
        state_dir: state,
        policy: { allow: [{ name: 'all', federations: ['*'], models: ['*'], data_sets: ['*'] }] },
        stop_grace_seconds: 0,
      };
      const config = parseAgentConfig(file, { folder: disk.folder, environment: {} });
      agent = await startAgent(config, { logger: log.logger.child({ agent: 'cramped' }) });
      await agent.ready;
      await disk.fill();
      const run = await fleet.federation().start({ ...ECHO, minUpdates: 2, maxRoundRetries: 0 });
      await expect(run.result()).rejects.toMatchObject({
        code: 'insufficient_updates',
        reason: expect.stringMatching(/cramped: failed \(\[insufficient_storage\] /),
      });
      expect((await run.session()).status).toBe('paused');
      expect(log.complaints('cramped').join('\n')).toMatch(/ENOSPC|full|cannot be written/);
      await disk.free();
      await run.resume();
      expect((await run.result()).status).toBe('completed');
      // No line of the audit log was cut in two.
      const audit = await readFile(join(state, 'audit.jsonl'), 'utf8');
      const entries = audit
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { kind: string });
      expect(entries.filter(({ kind }) => kind === 'update')).toHaveLength(2);
      expect(
        (await readdir(join(state, 'models'))).filter((name) => !/^[0-9a-f]{64}\.safetensors$/.test(name)),
      ).toEqual([]);
      expect(await readdir(join(state, 'updates'))).toEqual([]);
    } finally {
      await disk.free();
      await agent?.stop();
      await fleet.stop();
    }
  },
);
