// Ten thousand devices for the rollout benchmark: real sessions and real downloads, without agents around them.
import { createHash, randomUUID } from 'node:crypto';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type ClientDuplexStream, credentials, Metadata } from '@grpc/grpc-js';
import {
  AgentService,
  connectService,
  type DesiredModel,
  type SessionRequest,
  SessionRequestSchema,
  type SessionResponse,
} from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { encodeRequest, LeanPool } from './lean-connection.js';

export interface FleetTask {
  readonly restUrl: string;
  readonly grpcAddress: string;
  readonly connections: number;
  readonly downloads: number;
  readonly devices: readonly { readonly id: string; readonly credential: string }[];
  /** How devices take certain versions, by id; every other is activated and works. */
  readonly faults: Readonly<Record<string, Fault>>;
}

/** `activation`: half of the devices cannot activate it. `inference`: all do, and a third of its answers fail. */
export type Fault = 'activation' | 'inference';

export type FleetRequest =
  | { readonly ask: 'start'; readonly task: FleetTask }
  | { readonly ask: 'faults'; readonly faults: FleetTask['faults'] }
  | { readonly ask: 'status'; readonly versionId: string }
  | { readonly ask: 'told'; readonly versionId: string }
  | { readonly ask: 'try-download'; readonly sha256: string; readonly deviceIndexes: readonly number[] };

export interface FleetStatus {
  /** Devices that run the version, and whose coordinator has said that it knows. */
  readonly settled: number;
  /** When the last of them became so. Milliseconds since 1970. */
  readonly lastSettledAtMs: number;
  readonly connected: number;
  /** Sessions that ended by themselves, and why the first did. */
  readonly lost: number;
  readonly lostReason: string | null;
  readonly downloads: number;
  readonly downloadFailures: number;
  /** Longest silence between a renewal and its answer. */
  readonly slowestRenewalMs: number;
}

const CONNECTING_AT_ONCE = 200;

let task: FleetTask;
let faults: FleetTask['faults'] = {};
let downloads: LeanPool;
let connected = 0;
let lost = 0;
let lostReason: string | null = null;
let downloadCount = 0;
let downloadFailures = 0;
let slowestRenewalMs = 0;
const fleet: SimulatedDevice[] = [];
const settledCounts = new Map<string, { count: number; lastAtMs: number }>();

class SimulatedDevice {
  readonly index: number;
  readonly #credential: string;
  readonly #stream: ClientDuplexStream<SessionRequest, SessionResponse>;
  /** Every version it was ever told to run. */
  readonly told = new Set<string>();
  readonly ready = Promise.withResolvers<void>();
  #epoch = 0n;
  #renewal: NodeJS.Timeout | undefined;
  #renewedAtMs = 0;
  #desired: DesiredModel | undefined;
  #working = false;
  /** Files that it keeps: what it runs and what it ran before. */
  #kept: readonly string[] = [];
  #active = '';
  #previous = '';
  #settled = '';
  #state = 'pending';
  #awaitsReceipt = false;
  #said: { readonly text: string; readonly settles: string } = { text: '', settles: '' };

  constructor(index: number, credential: string, service: ReturnType<typeof connect>) {
    this.index = index;
    this.#credential = credential;
    const metadata = new Metadata();
    metadata.set('authorization', `Bearer ${credential}`);
    this.#stream = service.session(metadata);
    this.#stream.on('data', (response: SessionResponse) => this.#receive(response));
    this.#stream.on('error', (error) => this.#lost(error.message));
    this.#stream.on('end', () => this.#lost('the session ended'));
    this.#send({
      case: 'hello',
      value: {
        agentVersion: 'bench',
        processId: randomUUID(),
        lastEpoch: 0n,
        hostName: 'bench',
        inProgress: [],
      },
    });
  }

  tryDownload(sha256: string): Promise<number> {
    const path = `/api/v1/transfers/objects/${sha256}`;
    return downloads
      .exchange(encodeRequest({ method: 'GET', path, bearer: this.#credential }))
      .then(({ status }) => status);
  }

  #send(event: MessageInitShape<typeof SessionRequestSchema>['event']): void {
    this.#stream.write(create(SessionRequestSchema, event === undefined ? {} : { epoch: this.#epoch, event }));
  }

  #lost(reason: string): void {
    if (this.#renewal === undefined && this.#epoch !== 0n) return;
    clearInterval(this.#renewal);
    this.#renewal = undefined;
    lost += 1;
    lostReason ??= reason;
    this.ready.reject(new OctomilError('network_unavailable', reason));
  }

  #receive({ event }: SessionResponse): void {
    if (event.case === 'welcome') {
      this.#epoch = event.value.epoch;
      connected += 1;
      this.#renewal = setInterval(() => {
        this.#renewedAtMs = performance.now();
        this.#send({ case: 'leaseRenewal', value: { inProgress: [] } });
      }, event.value.renewEveryMs);
      this.ready.resolve();
    } else if (event.case === 'leaseRenewed') {
      slowestRenewalMs = Math.max(slowestRenewalMs, performance.now() - this.#renewedAtMs);
    } else if (event.case === 'desiredState') {
      this.#desired = event.value.models[0];
      if (this.#desired !== undefined) this.told.add(this.#desired.versionId);
      if (!this.#working) void this.#follow();
    } else if (event.case === 'observedReceipt') {
      this.#awaitsReceipt = false;
      this.#settle(this.#said.settles);
      this.#say();
    }
  }

  /** Works towards what is desired now, until that is what it runs or cannot run. */
  async #follow(): Promise<void> {
    this.#working = true;
    for (let worked: DesiredModel | undefined; worked !== this.#desired; ) {
      worked = this.#desired;
      if (worked !== undefined) await this.#work(worked);
    }
    this.#working = false;
  }

  async #work(desired: DesiredModel): Promise<void> {
    const { versionId, artifacts } = desired;
    const digests = artifacts.map(({ sha256 }) => sha256);
    if (!digests.every((sha256) => this.#kept.includes(sha256))) {
      this.#show('downloading');
      for (const sha256 of digests) await this.#download(sha256, desired);
      // Something else is desired by now.
      if (desired !== this.#desired) return;
      this.#kept = [...this.#kept.slice(-1), ...digests];
    }
    if (faults[versionId] === 'activation' && this.index % 2 === 0) {
      this.#show('failed');
      return;
    }
    if (this.#active !== versionId) {
      this.#previous = this.#active;
      this.#active = versionId;
    }
    this.#show('active');
  }

  async #download(sha256: string, desired: DesiredModel): Promise<void> {
    const path = `/api/v1/transfers/objects/${sha256}`;
    const request = encodeRequest({ method: 'GET', path, bearer: this.#credential });
    while (desired === this.#desired) {
      const { status, body } = await downloads.exchange(request);
      if (status === 200 && createHash('sha256').update(body).digest('hex') === sha256) {
        downloadCount += 1;
        return;
      }
      downloadFailures += 1;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }

  #show(state: string): void {
    this.#state = state;
    this.#settle('');
    if (!this.#awaitsReceipt) this.#say();
  }

  /** As agents do: one report at a time, of what is so by then. */
  #say(): void {
    const desired = this.#desired;
    if (desired === undefined) return;
    const { modelId, versionId, rolloutId } = desired;
    const state = this.#state;
    const text = `${versionId} ${rolloutId} ${state} ${this.#active}`;
    if (text === this.#said.text) return;
    const runs = state === 'active' && this.#active === versionId;
    this.#said = { text, settles: runs ? versionId : '' };
    this.#awaitsReceipt = true;
    this.#send({
      case: 'observedState',
      value: {
        models: [
          {
            modelId,
            versionId,
            rolloutId,
            state,
            activeVersionId: this.#active,
            previousVersionId: this.#previous,
            healthJson: runs ? healthOf(versionId) : '',
            ...(state === 'failed' ? { problem: FAILED } : {}),
          },
        ],
      },
    });
  }

  #settle(versionId: string): void {
    if (this.#settled === versionId) return;
    const left = settledCounts.get(this.#settled);
    if (left !== undefined) left.count -= 1;
    this.#settled = versionId;
    if (versionId === '') return;
    const joined = settledCounts.get(versionId) ?? { count: 0, lastAtMs: 0 };
    joined.count += 1;
    joined.lastAtMs = Date.now();
    settledCounts.set(versionId, joined);
  }
}

const FAILED = {
  code: 'activation_failed',
  message: 'the smoke prediction failed',
};

function healthOf(versionId: string): string {
  const bad = faults[versionId] === 'inference';
  return JSON.stringify({
    inferences: 30,
    inferenceErrors: bad ? 10 : 0,
    latencyMs: { mean: 4, p95: 9 },
    evaluation: null,
    baseline: null,
  });
}

function connect(grpcAddress: string) {
  return connectService(AgentService, grpcAddress, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  });
}

async function start(given: FleetTask): Promise<void> {
  task = given;
  faults = given.faults;
  downloads = await LeanPool.open(task.restUrl, task.downloads);
  const services = Array.from({ length: task.connections }, () => connect(task.grpcAddress));
  for (let from = 0; from < task.devices.length; from += CONNECTING_AT_ONCE) {
    const batch = task.devices.slice(from, from + CONNECTING_AT_ONCE).map(({ credential }, position) => {
      const index = from + position;
      const service = services[index % services.length];
      if (service === undefined) throw new OctomilError('internal', 'there is no connection');
      const device = new SimulatedDevice(index, credential, service);
      fleet.push(device);
      return device.ready.promise;
    });
    await Promise.all(batch);
  }
}

async function answer(request: FleetRequest): Promise<unknown> {
  switch (request.ask) {
    case 'start':
      await start(request.task);
      return { connected };
    case 'faults':
      faults = request.faults;
      return {};
    case 'status': {
      const { count = 0, lastAtMs = 0 } = settledCounts.get(request.versionId) ?? {};
      return {
        settled: count,
        lastSettledAtMs: lastAtMs,
        connected,
        lost,
        lostReason,
        downloads: downloadCount,
        downloadFailures,
        slowestRenewalMs,
      } satisfies FleetStatus;
    }
    case 'told':
      return fleet.filter(({ told }) => told.has(request.versionId)).map(({ index }) => index);
    case 'try-download':
      return Promise.all(request.deviceIndexes.map(async (index) => fleet[index]?.tryDownload(request.sha256)));
  }
}

process.on('message', ({ id, request }: { id: number; request: FleetRequest }) => {
  answer(request).then(
    (value) => process.send?.({ id, value }),
    (thrown: unknown) => process.send?.({ id, error: toOctomilError(thrown).message }),
  );
});
process.once('disconnect', () => process.exit(0));
