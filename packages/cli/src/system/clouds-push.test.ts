import { createHash, randomUUID } from 'node:crypto';
import { type Channel, channel } from 'node:diagnostics_channel';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ModelRegistry, type UploadTicket } from '@octomil/sdk';
import { encodeWeights } from '@octomil/shared/tensors';
import { type Fleet, startFleet } from '../fleet/fleet.js';
import { inTerminal } from './terminal.js';

jest.setTimeout(120_000);

const MIB = 1024 * 1024;
/** 64 MiB of weights: four parts, and a fifth with the rest. */
const WEIGHTS = encodeWeights([
  { name: 'w', shape: [4096, 4096], data: new Float32Array(4096 * 4096).map((_, at) => (at % 1009) / 7) },
]);
const DIGEST = createHash('sha256').update(WEIGHTS).digest('hex');
/** What else is pushed: two parts. */
const SMALL = encodeWeights([{ name: 'w', shape: [5, MIB], data: new Float32Array(5 * MIB).fill(0.5) }]);
const SMALL_DIGEST = createHash('sha256').update(SMALL).digest('hex');
const PARTS = Math.ceil(WEIGHTS.length / (16 * MIB));

/** Servers of which a cut upload cannot be gone on with, and why. */
const CANNOT_RESUME: Readonly<Record<string, string>> = {
  'fake-gcs-server': 'it takes the question what has arrived for the end of the upload',
  versitygw: 'it lists a part that was cut as there, in its full size; the check of the whole file then refuses it',
};
/** Connections that servers of this process took: of the coordinator, by REST and by gRPC. */
const taken: Channel = channel('net.server.socket');
const sockets: Socket[] = [];
const note = (message: unknown): void => {
  sockets.push((message as { socket: Socket }).socket);
};
const passed = (): number => sockets.reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0);

let folder: string;
let path: string;
let small: string;
beforeAll(async () => {
  taken.subscribe(note);
  folder = await mkdtemp(join(tmpdir(), 'octomil-push-'));
  path = join(folder, 'weights.safetensors');
  await writeFile(path, WEIGHTS);
  small = join(folder, 'small.safetensors');
  await writeFile(small, SMALL);
});
afterAll(async () => {
  taken.unsubscribe(note);
  await rm(folder, { recursive: true, force: true });
});

for (const variable of ['TEST_S3_URL', 'TEST_GCS_URL', 'TEST_AZURE_URL']) {
  const url = process.env[variable];
  const server = process.env[variable.replace('_URL', '_SERVER')];
  if (url === undefined || server === 's3rver') {
    const reason =
      server === 's3rver'
        ? 's3rver answers ListParts with 405'
        : `${variable} is not set; run through scripts/with-clouds.js`;
    test.skip(`a push to the bucket of ${variable}: ${reason}`, () => undefined);
    continue;
  }
  describe(`a push to the bucket of ${variable}`, () => {
    let fleet: Fleet;
    let registry: ModelRegistry;
    beforeAll(async () => {
      fleet = await startFleet({
        agents: 0,
        coordinator: { environment: { OBJECT_STORE_URL: `${url}/${randomUUID()}` } },
      });
    });
    afterAll(() => fleet.stop());
    const newModel = async (): Promise<string> => {
      // Its own, so that what one test found of the bucket is not known to the next.
      registry = new ModelRegistry({ apiBase: fleet.apiBase, apiKey: fleet.apiKey });
      return (await registry.createModel({ name: randomUUID() })).id;
    };
    const keys = async (prefix: string): Promise<string[]> => {
      const found: string[] = [];
      for await (const { key } of fleet.coordinator.context.objects.list(prefix)) found.push(key);
      return found;
    };
    const audited = async (action: string): Promise<number> => {
      const { audit } = fleet.coordinator.context;
      return (await audit.list(fleet.coordinator.organizationId, { action, limit: 100 })).length;
    };
    /** What the SDK sends past the coordinator; `change` may answer in place of the bucket. */
    const watched = async <T>(
      work: (sent: string[]) => Promise<T>,
      change: (sent: readonly string[]) => Response | undefined = () => undefined,
    ): Promise<T> => {
      const sent: string[] = [];
      const original = globalThis.fetch;
      const spy = jest.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
        if (init?.method !== 'PUT' || String(input).startsWith(fleet.restUrl)) return original(input, init);
        sent.push(String(input));
        const instead = change(sent);
        return instead ?? original(input, init);
      });
      try {
        return await work(sent);
      } finally {
        spy.mockRestore();
      }
    };

    test('64 MiB go past the coordinator, are checked, and count: as safetensors, with their digest', async () => {
      const modelId = await newModel();
      sockets.length = 0;
      await watched(async (sent) => {
        const made = await registry.uploadVersionFromPath({ modelId, filePath: path, version: '1.0.0' });
        expect(made).toMatchObject({ version: '1.0.0', status: 'draft', modelHash: `sha256:${DIGEST}` });
        expect(sent).toHaveLength(PARTS);
      });
      expect(passed()).toBeLessThan(MIB);
      // Removed once it counts, not before.
      await until(async () => (await keys('incoming/')).length === 0);
      expect(await audited('version.file_validated')).toBe(1);
      await registry.publishVersion({ modelId, version: '1.0.0' });
      const pulled = await registry.pullModelToPath({ model: modelId, path: join(folder, randomUUID()) });
      expect(pulled.digest).toBe(DIGEST);
    });

    test('the version is validating until then, for REST, SDK and command line, and is not published before', async () => {
      const modelId = await newModel();
      const { objects } = fleet.coordinator.context;
      const gate = Promise.withResolvers<void>();
      const localFile = objects.localFile.bind(objects);
      const held = jest.spyOn(objects, 'localFile').mockImplementation(async (key) => {
        await gate.promise;
        return localFile(key);
      });
      try {
        const made = await registry.uploadVersionFromPath({ modelId, filePath: small, waitUntilChecked: false });
        expect(made.status).toBe('validating');
        expect((await registry.version(modelId, made.version)).status).toBe('validating');
        expect(await registry.versions(modelId, { status: 'validating' })).toHaveLength(1);
        await expect(registry.publishVersion({ modelId, version: made.version })).rejects.toMatchObject({
          code: 'wrong_state',
          reason: expect.stringContaining('is validating'),
        });
        await expect(registry.pullModel({ model: modelId, version: made.version })).rejects.toMatchObject({
          code: 'format_not_ready',
        });
        const environment = { OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: fleet.apiKey };
        const { out } = await inTerminal(['versions', 'list', modelId], environment);
        expect(out).toContain('validating');
        gate.resolve();
        const ready = await registry.conversions.ready({ modelId, version: made.version });
        expect(ready).toMatchObject({ status: 'draft', modelHash: `sha256:${SMALL_DIGEST}` });
      } finally {
        gate.resolve();
        held.mockRestore();
      }
    });

    test('what is no safetensors file is refused with its reason, and nothing of it stays', async () => {
      const modelId = await newModel();
      const wrong = join(folder, 'wrong.safetensors');
      await writeFile(wrong, Buffer.alloc(20 * MIB, 0x41));
      const before = await keys('artifacts/');
      const refusals = await audited('version.file_refused');
      await expect(registry.uploadVersionFromPath({ modelId, filePath: wrong })).rejects.toMatchObject({
        code: 'corrupt_file',
      });
      expect(await registry.versions(modelId)).toEqual([]);
      await until(async () => (await keys('incoming/')).length === 0);
      expect(await keys('artifacts/')).toEqual(before);
      expect(await audited('version.file_refused')).toBe(refusals + 1);
    });

    test('other bytes than their digest says are refused; a draft keeps the files that it had', async () => {
      const modelId = await newModel();
      await registry.uploadVersionFromPath({ modelId, filePath: small, version: '1.0.0' });
      const other = { modelId, version: '1.0.0', fileName: 'm.onnx', content: new Blob([new Uint8Array(3 * MIB)]) };
      await expect(registry.uploadVersion({ ...other, sha256: '0'.repeat(64) })).rejects.toMatchObject({
        code: 'checksum_mismatch',
      });
      const kept = await registry.version(modelId, '1.0.0');
      expect(kept).toMatchObject({ status: 'draft', checksums: { safetensors: SMALL_DIGEST } });
      await expect(registry.uploadVersion(other)).resolves.toMatchObject({ status: 'draft' });
      expect(Object.keys((await registry.version(modelId, '1.0.0'))['checksums'] as object)).toHaveLength(2);
      await expect(registry.uploadVersion(other)).rejects.toMatchObject({ code: 'conflict' });
      await until(async () => (await keys('incoming/')).length === 0);
    });

    const cannotResume = CANNOT_RESUME[server ?? ''];
    const resuming = cannotResume === undefined ? test : test.skip;
    const because = cannotResume === undefined ? '' : ` (skipped: ${cannotResume})`;
    resuming(
      `an upload that is cut off goes on where it was, as its confirmation may be repeated${because}`,
      async () => {
        const modelId = await newModel();
        let ticket: UploadTicket | undefined;
        const stop = new AbortController();
        const push = (more: object) =>
          registry.uploadVersionFromPath({ modelId, filePath: small, onTicket: (begun) => (ticket = begun), ...more });
        const onProgress = (done: number): void => {
          if (done < SMALL.length) stop.abort();
        };
        await expect(push({ signal: stop.signal, onProgress })).rejects.toMatchObject({ code: 'cancelled' });
        await watched(async (sent) => {
          const made = await push({ resume: ticket });
          expect(made).toMatchObject({ status: 'draft', modelHash: `sha256:${SMALL_DIGEST}` });
          expect(sent.length).toBeLessThan(2);
          expect(await push({ resume: ticket })).toMatchObject({ version: made.version, status: 'draft' });
        });
        expect(await registry.versions(modelId)).toHaveLength(1);
      },
    );

    test('a bucket that cannot be reached is tried once, and the coordinator takes the file', async () => {
      const modelId = await newModel();
      const unreachable = (): Response => {
        throw new TypeError('fetch failed');
      };
      await watched(async (sent) => {
        const made = await registry.uploadVersionFromPath({ modelId, filePath: small });
        expect(made).toMatchObject({ status: 'draft', modelHash: `sha256:${SMALL_DIGEST}` });
        const first = sent.length;
        expect(first).toBeGreaterThan(0);
        await registry.uploadVersionFromPath({ modelId, filePath: small });
        expect(sent).toHaveLength(first);
      }, unreachable);
      await until(async () => (await keys('incoming/')).length === 0);
    });

    test('octomil push goes there too', async () => {
      const environment = { OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: fleet.apiKey };
      sockets.length = 0;
      const result = await inTerminal(['push', path, '--model', 'by-command', '--version', '1.0.0'], environment);
      expect(result.out).toContain('1.0.0 is draft');
      expect(passed()).toBeLessThan(MIB);
      expect(await readFile(path)).toHaveLength(WEIGHTS.length);
    });
  });
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect('it holds').toBe('it does not hold');
}
