import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { AgentService, BULK_CODECS, connectService, type DesiredState } from '@octomil/proto';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import { createAuditLog } from '../audit/index.js';
import { createDeviceService, type DeviceService } from '../devices/index.js';
import { createGrpcServer, type GrpcServer } from '../grpc/index.js';
import { describeOnDatabases } from '../testing/databases.js';
import { insertEnrollmentToken } from '../testing/enrolled-device.js';
import { FakeAssignmentPort } from '../testing/fake-assignment-port.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';
import { type AgentClient, bearer, SessionPeer } from '../testing/session-peer.js';
import { createTransferService, type TransferService } from '../transfers/index.js';
import type { Rollout } from './rollout-store.js';

const DEVICES = 20;

describeOnDatabases('Devices that follow rollouts', (open) => {
  let bench: RolloutBench;
  let devices: DeviceService;
  let transfers: TransferService;
  let server: GrpcServer;
  let client: AgentClient;
  let folder: string;
  let fleet: FleetDevice[];

  /** An agent that does at once what it is told, unless `broken` says that the version does not work. */
  class FleetDevice {
    readonly peer: SessionPeer;
    readonly credential: string;
    /** Versions it was ever told to run, the last one last. */
    readonly told: string[] = [];
    digest = '';
    broken: ReadonlySet<string> = new Set();
    receipts = 0;

    constructor(credential: string) {
      this.credential = credential;
      this.peer = new SessionPeer(client, credential);
    }

    async follow(): Promise<void> {
      for (;;) {
        const state = await Promise.race([this.peer.next('desiredState'), this.peer.over]);
        if (state === undefined || !('models' in state)) return;
        this.digest = state.digest;
        this.#act(state);
        await this.peer.next('observedReceipt');
        this.receipts += 1;
      }
    }

    #act(state: DesiredState): void {
      const [model] = state.models;
      this.told.push(model?.versionId ?? 'none');
      const works = model !== undefined && !this.broken.has(model.versionId);
      this.peer.say({
        case: 'observedState',
        value: {
          models:
            model === undefined
              ? []
              : [
                  {
                    modelId: model.modelId,
                    versionId: model.versionId,
                    rolloutId: model.rolloutId,
                    state: works ? 'active' : 'failed',
                    activeVersionId: works ? model.versionId : '',
                    ...(works ? {} : { problem: { code: 'activation_failed', message: 'it answers NaN' } }),
                  },
                ],
        },
      });
    }

    get runs(): string {
      return this.told.at(-1) ?? 'nothing';
    }
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'octomil-follow-'));
    bench = await openRolloutBench(open, { sweepEveryMs: 200 });
    const { database } = bench;
    const assignments = new FakeAssignmentPort();
    devices = createDeviceService({
      database,
      clock: systemClock,
      logger: silentLogger,
      coordinatorId: randomUUID(),
    });
    transfers = createTransferService({
      database,
      assignments,
      rollouts: bench.service,
      hub: devices.hub,
      clock: systemClock,
      logger: silentLogger,
      objects: {
        localFile: async (key: string) => ({
          path: join(folder, key.replace('/', '-')),
          release: async () => undefined,
        }),
      } as ObjectStore,
      settings: { stagingRoot: join(folder, 'staging') },
    });
    server = createGrpcServer({
      audit: createAuditLog({ database }),
      devices,
      assignments,
      desired: bench.service,
      transfers,
      clock: systemClock,
      logger: silentLogger,
      settings: {
        host: '127.0.0.1',
        port: 0,
        transferUrl: () => '',
        coordinatorVersion: '0.1.0',
        stopWithinMs: 200,
      },
    });
    await devices.start();
    await transfers.start();
    await bench.service.start();
    await server.start();
    client = connectService(AgentService, server.address, credentials.createInsecure(), {}, BULK_CODECS);
    fleet = await Promise.all(Array.from({ length: DEVICES }, () => enrolled()));
    for (const device of fleet) {
      await device.peer.hello(randomUUID());
      void device.follow();
    }
  }, 240_000);
  afterAll(async () => {
    client.close();
    await server.stop();
    await transfers.stop();
    await devices.stop();
    await bench.close();
    await rm(folder, { recursive: true, force: true });
  }, 180_000);

  async function enrolled(): Promise<FleetDevice> {
    const enrollmentToken = await insertEnrollmentToken(bench.database, bench.organizationId);
    const request = { enrollmentToken, deviceIdentifier: randomUUID(), labels: {}, agentVersion: '1' };
    return new FleetDevice((await devices.enroll(request)).credential);
  }

  const create = (version: string, given: object = {}): Promise<Rollout> =>
    bench.service.commands.create(
      bench.model,
      {
        version,
        initialRatio: 0.5,
        targetRatio: 1,
        incrementRatio: 0.5,
        advanceEverySeconds: null,
        selector: undefined,
        health: { min_devices: 0 },
        startImmediately: true,
        reason: null,
        ...given,
      },
      'key:test',
    );
  const running = (versionId: string) => fleet.filter((device) => device.runs === versionId);
  const stateOf = async ({ model_id, id }: Rollout) => (await bench.service.store.get(model_id, id)).state;

  let stable = '';

  test('1 to 50 to 100 %: every device in the share is told, nobody else is, and all converge', async () => {
    const version = await bench.version();
    stable = version.id;
    const rollout = await create(version.version, { initialRatio: 0.01 });
    const inShare = async () => {
      const row = await bench.service.store.get(rollout.model_id, rollout.id);
      return (await bench.service.affectedDevices(row, { limit: 1000, offset: 0 })).total;
    };
    const first = await inShare();
    await until(() => fleet.every(({ told }) => told.length > 0) && running(version.id).length === first);
    await bench.service.commands.updateShare(rollout.model_id, rollout.id, 0.5, null, 'key:test');
    const half = await inShare();
    await until(() => running(version.id).length === half);
    expect(half).toBeGreaterThanOrEqual(first);
    await bench.service.commands.advance(rollout.model_id, rollout.id, undefined, 'key:test');
    await until(() => running(version.id).length === DEVICES);
    expect(await stateOf(rollout)).toBe('completed');
    await until(() => fleet.every(({ told, receipts }) => receipts === told.length));
    const row = await bench.service.store.get(rollout.model_id, rollout.id);
    await until(async () => (await bench.service.judgement(row))?.seen.aggregate.active === DEVICES);
  }, 180_000);

  test('stages go on by themselves, as soon as they are due and devices run the version', async () => {
    const version = await bench.version();
    const rollout = await create(version.version, {
      initialRatio: 0.6,
      incrementRatio: 0.2,
      advanceEverySeconds: 1,
      health: { min_devices: 1 },
    });
    await until(async () => (await stateOf(rollout)) === 'completed');
    await until(() => running(version.id).length === DEVICES);
    const history = await bench.service.store.history(rollout.id);
    expect(history.map(({ to_ratio }) => to_ratio)).toEqual([0, 0.6, 0.8, 1]);
    expect(history.slice(2).every(({ actor }) => actor === 'coordinator')).toBe(true);
    stable = version.id;
  }, 180_000);

  test('a version that does not work is taken back by itself, and nobody outside its share ever heard of it', async () => {
    const bad = await bench.version();
    for (const device of fleet) device.broken = new Set([bad.id]);
    const rollout = await create(bad.version, { initialRatio: 0.5, advanceEverySeconds: 1, health: undefined });
    const { devices: inShare } = await bench.service.affectedDevices(rollout, { limit: 1000, offset: 0 });
    expect(inShare.length).toBeGreaterThan(0);
    await until(async () => (await stateOf(rollout)) === 'rolled_back');
    await until(() => running(stable).length === DEVICES);
    expect(fleet.filter(({ told }) => told.includes(bad.id)).length).toBeLessThanOrEqual(inShare.length);
    expect(await bench.service.store.get(rollout.model_id, rollout.id)).toMatchObject({
      share_ratio: 0.5,
      reason_code: 'gate_breached',
      reason: expect.stringContaining('could not activate'),
    });
    const history = await bench.service.store.history(rollout.id);
    expect(history.map(({ to_state }) => to_state)).toEqual(['draft', 'active', 'rolling_back', 'rolled_back']);
  }, 180_000);

  test('who was away hears it after the next Welcome, with the same digest as the others', async () => {
    const version = await bench.version();
    await fleet[0]?.peer.close();
    await create(version.version, { initialRatio: 1 });
    await until(() => running(version.id).length === DEVICES - 1);
    const back = new FleetDevice(fleet[0]?.credential ?? '');
    await back.peer.hello(randomUUID());
    void back.follow();
    await until(() => back.runs === version.id);
    expect(back.digest).toBe(fleet[1]?.digest);
    fleet[0] = back;
  }, 180_000);

  test('the files of a desired version are streamed, those of others are not', async () => {
    const [version, other] = [await bench.version(), await bench.version()];
    await create(version.version, { initialRatio: 1 });
    await writeFile(join(folder, `objects-${version.id}`), 'hello');
    const [device] = fleet;
    const download = (sha256: string) =>
      new Promise<string>((resolve) => {
        const model = { sha256, sizeBytes: 5n };
        const call = client.downloadModel({ model, offset: 1n }, bearer(device?.credential ?? ''));
        let text = '';
        call.on('data', ({ data }: { data: Uint8Array }) => {
          text += Buffer.from(data).toString();
        });
        call.on('end', () => resolve(text));
        call.on('error', (error: { code?: number }) => resolve(`error ${error.code}`));
      });
    expect(await download(version.sha256)).toBe('ello');
    expect(await download(other.sha256)).toBe('error 5');
  }, 180_000);

  test('a faulty report is answered with what is wrong in it, and the session goes on', async () => {
    const [, device] = fleet;
    const { peer } = device ?? {};
    const model = { modelId: bench.model.id, state: 'on fire' };
    peer?.say({ case: 'observedState', value: { models: [model] } });
    const notice = await peer?.next('problemNotice');
    expect(notice?.problem).toMatchObject({
      code: 'invalid_input',
      message: expect.stringContaining('models[0].state'),
    });
    peer?.say({ case: 'observedState', value: { models: [{ ...model, state: 'active', healthJson: '{' }] } });
    expect((await peer?.next('problemNotice'))?.problem).toMatchObject({ code: 'invalid_input' });
  });
});

async function until(done: () => boolean | Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 400; attempt++) {
    if (await done()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  expect('what was waited for').toBe('so');
}
