import { randomUUID } from 'node:crypto';
import { type Channel, channel } from 'node:diagnostics_channel';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { GENERATED_TARGET, startFleet } from '../fleet/fleet.js';

jest.setTimeout(90_000);

/** Every update and every base is larger than what goes with a message: 1,200 × 1,000 weights. */
const MIB = 1024 * 1024;
const ARCHITECTURE = { name: 'mlp', hidden: [1200, 1000] } as const;
const SITES = 2;
const ROUNDS = 2;

/** Connections that servers of this process took: of the coordinator, by REST and by gRPC. */
const taken: Channel = channel('net.server.socket');
const sockets: Socket[] = [];
const note = (message: unknown): void => {
  sockets.push((message as { socket: Socket }).socket);
};
const passed = (): number => sockets.reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0);

let reference: { readonly digest: string; readonly bytes: number };

/** Trains two rounds and pulls what came of it. */
async function trained(environment: Record<string, string>): Promise<{ digest: string; bytes: number }> {
  sockets.length = 0;
  const fleet = await startFleet({ agents: SITES, coordinator: { environment } });
  const folder = await mkdtemp(join(tmpdir(), 'octomil-pulled-'));
  try {
    await fleet.registry.ensureModel({ name: 'risk' });
    const result = await fleet.federation().train({
      ...{ model: 'risk', architecture: ARCHITECTURE, target: GENERATED_TARGET, rounds: ROUNDS, seed: 7 },
      ...{ minUpdates: SITES, baseVersion: 'initial', trainer: 'echo' },
    });
    const pulled = await fleet.registry.pullModelToPath({
      model: 'risk',
      version: result.version,
      path: join(folder, 'm'),
    });
    expect((await readFile(pulled.path)).length).toBeGreaterThan(4 * MIB);
    expect(pulled.digest).toBe(result.digest);
    return { digest: pulled.digest, bytes: passed() };
  } finally {
    await fleet.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

beforeAll(async () => {
  taken.subscribe(note);
  reference = await trained({});
}, 300_000);

afterAll(() => {
  taken.unsubscribe(note);
});

test('with a folder every base and update passes through the coordinator', () => {
  expect(reference.bytes).toBeGreaterThan(2 * SITES * ROUNDS * 4 * MIB);
});

for (const variable of ['TEST_S3_URL', 'TEST_GCS_URL', 'TEST_AZURE_URL']) {
  const url = process.env[variable];
  const lacks = process.env['TEST_S3_SERVER'] === 's3rver' && variable === 'TEST_S3_URL';
  if (url === undefined || lacks) {
    const reason = lacks
      ? 's3rver answers ListParts with 405'
      : `${variable} is not set; run through scripts/with-clouds.js`;
    test.skip(`a training on the bucket of ${variable}: ${reason}`, () => undefined);
    continue;
  }
  test(`a training on the bucket of ${variable} ends with the same digest, and no model passes through the coordinator`, async () => {
    const { digest, bytes } = await trained({ OBJECT_STORE_URL: `${url}/${randomUUID()}` });
    expect(digest).toBe(reference.digest);
    expect(bytes).toBeLessThan(2 * MIB);
  });
}
