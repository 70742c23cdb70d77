import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { type Agent, parseAgentConfig, startAgent } from '@octomil/agent';
import { Federation, ModelRegistry, Organization } from '@octomil/sdk';
import { entryPoint, silentLogger } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { InProcessTrainer } from '@octomil/shared/training';
import { writeGeneratedSites } from '../demo/site-files.js';
import { GENERATED_TARGET } from '../fleet/fleet.js';

/** Every update is larger than what goes with a message. */
const ARCHITECTURE = { name: 'mlp', hidden: [1200, 1000] } as const;
const WEIGHTS = encodeWeights([{ name: 'w', shape: [5, 1 << 20], data: new Float32Array(5 << 20).fill(0.25) }]);
const SITES = 2;
/** The lease of who was killed ends, and somebody looks. */
const TAKEN_OVER_MS = 150_000;

const s3 = process.env['TEST_S3_SERVER'] === 's3rver' ? undefined : process.env['TEST_S3_URL'];
const url = s3 ?? process.env['TEST_GCS_URL'];
const endpointVariable = s3 === undefined ? 'STORAGE_EMULATOR_HOST' : 'AWS_ENDPOINT_URL_S3';

/** A way to the bucket that gives no bytes of what is to be checked while it holds. */
class HoldingProxy {
  holding = true;
  /** Reads that wait. */
  held = 0;
  readonly #server: Server;

  constructor(target: URL) {
    this.#server = createServer((incoming, response) => {
      const path = decodeURIComponent(incoming.url ?? '');
      const reads = incoming.method === 'GET' && path.includes('/incoming/') && !/uploadId=|list-type/.test(path);
      // What GCS tells of an object is no byte of it.
      const bytes = s3 !== undefined || path.includes('alt=media');
      if (this.holding && reads && bytes) {
        this.held += 1;
        return;
      }
      // The host stays, for it is signed.
      const onward = httpRequest(
        {
          host: target.hostname,
          port: target.port,
          method: incoming.method,
          path: incoming.url,
          headers: incoming.headers,
        },
        (answer) => {
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(response);
        },
      );
      onward.on('error', () => response.destroy());
      incoming.pipe(onward);
    });
  }

  async start(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function freePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return String(port);
}

async function ready(restUrl: string): Promise<void> {
  await until(async () => (await fetch(`${restUrl}/readyz`).catch(() => undefined))?.ok === true, 60_000);
}

async function until(holds: () => boolean | Promise<boolean>, limitMs: number): Promise<void> {
  for (const endMs = Date.now() + limitMs; Date.now() < endMs; ) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect('it holds').toBe('it does not hold');
}

const title =
  'a coordinator that is killed while it checks an update and a file of a version: the next one counts both once';
if (url === undefined) test.skip(`${title}: no bucket; run through scripts/with-clouds.js`, () => undefined);
else {
  test(
    title,
    async () => {
      const folder = await mkdtemp(join(tmpdir(), 'octomil-killed-'));
      const proxy = new HoldingProxy(new URL(process.env[endpointVariable] ?? ''));
      const [restPort, grpcPort, endpoint] = await Promise.all([freePort(), freePort(), proxy.start()]);
      const restUrl = `http://127.0.0.1:${restPort}`;
      const main = entryPoint(import.meta.url, '../../../coordinator/src/main');
      const environment = {
        ...process.env,
        NODE_OPTIONS: '',
        OCTOMIL_HOST: '127.0.0.1',
        OCTOMIL_REST_PORT: restPort,
        OCTOMIL_GRPC_PORT: grpcPort,
        OCTOMIL_DATA_DIR: join(folder, 'coordinator'),
        OBJECT_STORE_URL: `${url}/${randomUUID()}`,
        [endpointVariable]: endpoint,
      };
      const log = await open(join(folder, 'coordinator.log'), 'a');
      const start = (): ChildProcess =>
        spawn(process.execPath, [...main.execArgv, main.path], {
          stdio: ['ignore', 'ignore', log.fd],
          env: environment,
        });
      let coordinator = start();
      const agents: Agent[] = [];
      try {
        await ready(restUrl);
        const apiKey = (await readFile(join(folder, 'coordinator', 'bootstrap-key'), 'utf8')).trim();
        const access = { apiBase: `${restUrl}/api/v1`, apiKey };
        const registry = new ModelRegistry(access);
        const organization = new Organization(access);
        const sites = await writeGeneratedSites(join(folder, 'data'), 1);
        for (const site of sites.slice(0, SITES)) {
          const { token } = await organization.createEnrollmentToken({ deviceIdentifier: site.name });
          const home = join(folder, 'agents', site.name);
          await mkdir(home, { recursive: true });
          const allow = [{ name: 'all', federations: ['*'], models: ['*'], data_sets: ['*'] }];
          const setting = {
            ...{ coordinator: `127.0.0.1:${grpcPort}`, device_identifier: site.name, enrollment_token: token },
            ...{ state_dir: 'state', data_sets: { default: site.path }, policy: { allow }, stop_grace_seconds: 0 },
          };
          const agent = await startAgent(parseAgentConfig(setting, { folder: home, environment: {} }), {
            logger: silentLogger,
            trainer: new InProcessTrainer(),
          });
          agent.finished.catch(() => undefined);
          agents.push(agent);
          await agent.ready;
        }
        await until(async () => !JSON.stringify(await organization.listDevices()).includes('still being read'), 20_000);
        await registry.ensureModel({ name: 'risk' });
        const trained = new Federation({ ...access, name: 'fleet' }).train({
          ...{ model: 'risk', architecture: ARCHITECTURE, target: GENERATED_TARGET, rounds: 1, seed: 7 },
          ...{ minUpdates: SITES, baseVersion: 'initial', trainer: 'echo' },
        });
        trained.catch(() => undefined);
        await until(() => proxy.held >= SITES, 60_000);

        const path = join(folder, 'pushed.safetensors');
        await writeFile(path, WEIGHTS);
        const model = await registry.createModel({ name: 'pushed' });
        const waiting = await registry.uploadVersionFromPath({
          ...{ modelId: model.id, filePath: path, version: '1.0.0', waitUntilChecked: false },
        });
        expect(waiting.status).toBe('validating');
        await until(() => proxy.held > SITES, 20_000);

        const killed = once(coordinator, 'exit');
        coordinator.kill('SIGKILL');
        await killed;
        proxy.holding = false;
        coordinator = start();
        await ready(restUrl);
        expect((await registry.version(model.id, '1.0.0')).status).toBe('validating');
        await until(async () => (await registry.version(model.id, '1.0.0')).status === 'draft', TAKEN_OVER_MS);
        const digest = createHash('sha256').update(WEIGHTS).digest('hex');
        const made = await registry.version(model.id, '1.0.0');
        expect(made).toMatchObject({ checksums: { safetensors: digest } });
        expect((made['lineage'] as { uploads: string[] }).uploads).toHaveLength(1);
        const result = await trained;
        expect(result.version).toBe('1.0.0');
        expect(result.rounds.map((round) => round['acceptedUpdates'])).toEqual([SITES]);
        const headers = { authorization: `Bearer ${apiKey}` };
        const audit = await fetch(`${restUrl}/api/v1/audit?action=version.file_validated`, { headers });
        expect((await audit.text()).split('"version.file_validated"')).toHaveLength(2);
      } finally {
        await Promise.all(agents.map((agent) => agent.stop()));
        coordinator.kill('SIGKILL');
        await log.close();
        await proxy.stop();
        await rm(folder, { recursive: true, force: true, maxRetries: 3 });
      }
    },
    TAKEN_OVER_MS + 120_000,
  );
}
