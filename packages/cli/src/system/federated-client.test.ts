import { createHash } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { type ClientUpdateResult, FederatedClient, OctomilClientError, type StateDict } from '@octomil/sdk';
import { decodeWeights, encodeWeights, type NamedTensor } from '@octomil/shared/tensors';
import { type Fleet, startFleet } from '../fleet/fleet.js';
import { FakeDevice } from './fake-device.js';

jest.setTimeout(60_000);

let fleet: Fleet;
let places = 0;

beforeAll(async () => {
  fleet = await startFleet({ agents: 0, coordinator: { environment: { OCTOMIL_MAX_INLINE_UPDATE_MIB: '1' } } });
}, 240_000);

afterAll(() => fleet.stop(), 60_000);

/** Rows whose diagnosis follows from their age; each site has its own range, and one a column that the others lack. */
function rowsOf(site: number, count = 60) {
  return Array.from({ length: count }, (_, row) => {
    const age = 30 + ((row * 7 + site * 13) % 50);
    return {
      age,
      pressure: 100 + ((row * 11 + site * 5) % 40),
      diagnosis: age > 52 + site ? 1 : 0,
      ...(site === 2 ? { ward: `w${row % 3}` } : {}),
    };
  });
}

async function csvOf(site: number, count?: number): Promise<string> {
  const rows = rowsOf(site, count);
  const names = Object.keys(rows[0] ?? {});
  places += 1;
  const path = join(fleet.folder, `site-${site}-${places}.csv`);
  const lines = rows.map((row) => names.map((name) => String((row as Record<string, unknown>)[name])).join(','));
  await writeFile(path, `${[names.join(','), ...lines].join('\n')}\n`);
  return path;
}

function clientOf(deviceIdentifier: string): FederatedClient {
  return new FederatedClient({ apiKey: fleet.apiKey, apiBase: fleet.apiBase, deviceIdentifier, maxAttempts: 1 });
}

async function ask(
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; json: Record<string, unknown> }> {
  const answer = await fetch(`${fleet.apiBase}${path}`, {
    method,
    headers: { authorization: `Bearer ${fleet.apiKey}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: answer.status, json: (await answer.json()) as Record<string, unknown> };
}

/** A model that has a first version, made from one site's columns. */
async function modelWithBase(name: string): Promise<string> {
  await fleet.registry.ensureModel({ name });
  const first = await clientOf(`${name}-first`).train({
    ...{ model: name, data: rowsOf(0), targetCol: 'diagnosis', architecture: 'logistic' },
  });
  return first.version;
}

async function baseOf(model: string, version: string): Promise<NamedTensor[]> {
  return decodeWeights(await clientOf('reader').pullModel({ model, version, format: 'safetensors' }));
}

/** The mean in float64, rounded once: what FedAvg is (McMahan et al. 2017). */
function weightedMean(updates: readonly { tensors: readonly NamedTensor[]; weight: number }[]): NamedTensor[] {
  const total = updates.reduce((sum, { weight }) => sum + weight, 0);
  return (updates[0]?.tensors ?? []).map(({ name, shape, data }, place) => ({
    name,
    shape,
    data: Float32Array.from(data, (_, index) =>
      updates.reduce((sum, { tensors, weight }) => sum + (weight / total) * (tensors[place]?.data[index] ?? 0), 0),
    ),
  }));
}

function expectClose(actual: readonly NamedTensor[], expected: readonly NamedTensor[]): void {
  expect(actual.map(({ name, shape }) => [name, [...shape]])).toEqual(
    expected.map(({ name, shape }) => [name, [...shape]]),
  );
  actual.forEach(({ data }, place) => {
    for (const [index, value] of data.entries()) {
      expect(value).toBeCloseTo(expected[place]?.data[index] ?? Number.NaN, 6);
    }
  });
}

const failure = async (promise: Promise<unknown>): Promise<OctomilClientError> => {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(OctomilClientError);
  return error as OctomilClientError;
};

test('three clients train on their own files, and the aggregate is the weighted mean of what they sent', async () => {
  const name = 'cancer-detection';
  await fleet.registry.ensureModel({ name });
  const clients = [0, 1, 2].map((site) => clientOf(`hospital-00${site}`));
  const results: ClientUpdateResult[] = [];
  for (const [site, client] of clients.entries()) {
    const data = await csvOf(site, 40 + site * 20);
    results.push(
      await client.train({ model: name, data, targetCol: 'diagnosis', architecture: 'mlp', local: { epochs: 2 } }),
    );
  }
  expect(results.map(({ status }) => status)).toEqual(['accepted', 'accepted', 'accepted']);
  expect(new Set(results.map(({ version }) => version)).size).toBe(1);
  expect(new Set(results.map(({ roundId }) => roundId)).size).toBe(1);
  // A fifth is held out.
  for (const [site, { sampleCount, metrics }] of results.entries()) {
    expect(sampleCount).toBeLessThan(40 + site * 20);
    expect(sampleCount).toBeGreaterThan(10);
    expect(metrics['loss']).toEqual(expect.any(Number));
  }
  const base = results[0]?.version ?? '';
  const { rows } = await fleet.coordinator.context.database.transact(async (transaction) => ({
    rows: await transaction
      .selectFrom('updates')
      .select(['object_key', 'sample_count'])
      .where('round_id', '=', results[0]?.roundId ?? '')
      .execute(),
  }));
  const sent = await Promise.all(
    rows.map(async ({ object_key: key, sample_count: weight }) => ({
      tensors: decodeWeights(await fleet.coordinator.context.objects.readAll(key ?? '', 10_000_000)),
      weight,
    })),
  );
  const { status, json } = await ask('POST', '/training/aggregate', { model_id: name, min_updates: 3 });
  expect([status, json['status'], json['updates']]).toEqual([200, 'completed', 3]);
  expect(json['new_version']).not.toBe(base);
  expectClose(await baseOf(name, String(json['new_version'])), weightedMean(sent));

  const lineage = await ask('GET', `/training/sessions/${String(json['session_id'])}`);
  expect(lineage.json).toMatchObject({ status: 'completed', result_version: json['new_version'] });
  const round = await ask('GET', `/training/rounds/${String(json['round_id'])}`);
  expect((round.json['assignments'] as { device: string }[]).map(({ device }) => device)).toEqual([
    ...['hospital-000', 'hospital-001', 'hospital-002'],
  ]);
});

test('an aggregate that is asked for again answers what it made; one without updates says how many there are', async () => {
  const version = await modelWithBase('again');
  const body = { model_id: 'again', base_version: null, new_version: null, min_updates: 1, strategy: 'metrics' };
  const first = await ask('POST', '/training/aggregate', body);
  expect(first.json['status']).toBe('completed');
  const second = await ask('POST', '/training/aggregate', body);
  expect(second.json['new_version']).toBe(first.json['new_version']);
  const next = await ask('POST', '/training/aggregate', {
    ...body,
    base_version: first.json['new_version'],
    min_updates: 2,
  });
  expect([next.status, next.json['code']]).toEqual([409, 'insufficient_updates']);
  expect(next.json['message']).toMatch(/^0 of 2 updates/);
  expect(first.json['new_version']).not.toBe(version);
});

test('data come as rows, from a URL and as JSON lines; ready weights come by name, as a list and as bytes', async () => {
  const version = await modelWithBase('sources');
  const base = await baseOf('sources', version);
  const csv = rowsOf(1).map((row) => `${row.age},${row.pressure},${row.diagnosis}`);
  const table = `age,pressure,diagnosis\n${csv.join('\n')}\n`;
  const server = createServer((_request, answer) => {
    answer.setHeader('content-length', table.length);
    answer.end(table);
  }).listen(0);
  const lines = join(fleet.folder, 'rows.jsonl');
  await writeFile(
    lines,
    rowsOf(1)
      .map((row) => JSON.stringify(row))
      .join('\n'),
  );
  try {
    const { port } = server.address() as AddressInfo;
    const inputs = [rowsOf(1), `http://127.0.0.1:${port}/patients.csv?token=1`, lines];
    const counts: number[] = [];
    for (const [index, data] of inputs.entries()) {
      const { status, sampleCount } = await clientOf(`source-${index}`).train({ model: 'sources', data });
      expect(status).toBe('accepted');
      counts.push(sampleCount);
    }
    // The same rows, so the same ones held out.
    expect(new Set(counts).size).toBe(1);
  } finally {
    server.close();
  }
  const stateDict: StateDict = Object.fromEntries(
    base.map(({ name, shape, data }) => [name, { shape, data: [...data] }]),
  );
  for (const [index, data] of [stateDict, base, encodeWeights(base)].entries()) {
    const client = clientOf(`ready-${index}`);
    const result = await client.train({ model: 'sources', data, sampleCount: 1000, metrics: { loss: 0.42 } });
    expect(result).toMatchObject({ status: 'accepted', sampleCount: 1000, metrics: { loss: 0.42 }, version });
  }
  const left = (await readdir(tmpdir())).filter((entry) => entry.startsWith('octomil-client-'));
  expect(left).toEqual([]);
});

test('train_from_remote pulls, trains and uploads in every round; a later update takes the place of the earlier', async () => {
  const version = await modelWithBase('remote');
  const client = clientOf('remote-worker');
  const seen: number[] = [];
  const results = await client.trainFromRemote({
    model: 'remote',
    rounds: 3,
    localTrainFn: (base, { round }) => {
      const [first] = Object.values(base);
      seen.push(Number(first?.data[0]));
      const weights = Object.fromEntries(
        Object.entries(base).map(([name, { shape, data }]) => [
          name,
          { shape, data: Float32Array.from(data, (x) => x + 1) },
        ]),
      );
      return { weights, sampleCount: 80, metrics: { loss: 1 / round } };
    },
  });
  expect(results.map(({ status, version: used }) => [status, used])).toEqual(
    Array.from({ length: 3 }, () => ['accepted', version]),
  );
  expect(seen[2]).toBeCloseTo((seen[0] ?? 0) + 2, 5);
  const { json } = await ask('POST', '/training/aggregate', { model_id: 'remote', min_updates: 2 });
  expect([json['status'], json['updates']]).toEqual(['completed', 2]);
});

test('an open session: rounds are found, rules are followed in their order, and each round makes a version', async () => {
  const version = await modelWithBase('rounds');
  await ask('POST', '/training/aggregate', { model_id: 'rounds' });
  const started = await ask('POST', '/training/sessions', {
    ...{ model_id: 'rounds', admission: 'open', rounds: 2, min_updates: 2, base_version: version },
    ...{
      proximal_mu: 1,
      clip_norm: 0.5,
      filters: [{ type: 'sparsification', top_k_percent: 100 }, { type: 'mystery' }],
    },
  });
  expect([started.status, started.json['status']]).toEqual([201, 'running']);
  const [one, two] = [clientOf('joiner-1'), clientOf('joiner-2')];
  const [round] = await one.activeRounds();
  expect(round).toMatchObject({ status: 'active', version, proximalMu: 1, clipNorm: 0.5, targetParticipants: 2 });
  const base = await baseOf('rounds', version);

  const moved = await one.joinRound({
    ...(round === undefined ? {} : { roundId: round.roundId }),
    localTrainFn: (given) => ({
      weights: Object.fromEntries(
        Object.entries(given).map(([name, { shape, data }]) => [
          name,
          { shape, data: Float32Array.from(data, (x) => x + 3) },
        ]),
      ),
      sampleCount: 10,
    }),
  });
  expect(moved).toMatchObject({
    status: 'accepted',
    filters: [
      { type: 'gradient_clip', applied: true },
      { type: 'sparsification', applied: true },
      { type: 'mystery', applied: false },
    ],
  });
  const row = await fleet.coordinator.context.database.kysely
    .selectFrom('updates')
    .select('object_key')
    .where('id', '=', moved.updateId)
    .executeTakeFirstOrThrow();
  const delta = decodeWeights(await fleet.coordinator.context.objects.readAll(row.object_key ?? '', 10_000_000));
  for (const { data } of delta) {
    // 3 ÷ (1 + 1) in every place, then clipped to 0.5 per tensor.
    const norm = Math.min(0.5, 1.5 * Math.sqrt(data.length));
    for (const value of data) expect(value).toBeCloseTo(norm / Math.sqrt(data.length), 5);
  }
  expect(delta.map(({ name }) => name)).toEqual(base.map(({ name }) => name));
  expect(await one.activeRounds()).toEqual([]);

  expect(await two.joinRound({ data: rowsOf(1) })).toMatchObject({ status: 'accepted', version });
  const session = `/training/sessions/${String(started.json['session_id'])}`;
  await until(async () => (await one.activeRounds()).length === 1);
  const [second] = await one.activeRounds();
  expect(second?.version).not.toBe(version);
  expect(await failure(one.joinRound({ roundId: round?.roundId ?? '', data: rowsOf(0) }))).toMatchObject({
    code: 'wrong_state',
  });
  await Promise.all([one.joinRound({ data: rowsOf(0) }), two.joinRound({ data: rowsOf(1) })]);
  await until(async () => (await ask('GET', session)).json['status'] === 'completed');
  expect((await ask('GET', session)).json['result_version']).not.toBe(second?.version);
  expect(await failure(one.joinRound({ data: rowsOf(0) }))).toMatchObject({ code: 'assignment_not_found' });
});

async function until(done: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 300 && !(await done()); tries += 1)
    await new Promise((resolve) => setTimeout(resolve, 50));
}

test('register tells of the machine, and the same name is the same device', async () => {
  const client = clientOf('hospital-001');
  const first = await client.register({ featureSchema: ['age', 'pressure'] });
  const second = await clientOf('hospital-001').register();
  expect(first.deviceId).toBe(second.deviceId);
  expect(client.rollouts).toBeDefined();
});

test('what cannot be is told in one kind of error, with its code', async () => {
  const version = await modelWithBase('strict');
  const base = await baseOf('strict', version);
  const client = clientOf('strict-client');
  const table: [string, () => Promise<unknown>, string, RegExp][] = [
    ['model', () => client.train({ model: 'nonexistent', data: base }), 'model_not_found', /nonexistent/],
    [
      'model with a table',
      () => client.train({ model: 'nonexistent', data: rowsOf(0) }),
      'model_not_found',
      /nonexistent/,
    ],
    ['version', () => client.train({ model: 'strict', data: base, version: '9.9.9' }), 'version_not_found', /9\.9\.9/],
    [
      'shape',
      () => client.train({ model: 'strict', data: base.map((t) => ({ ...t, shape: [t.data.length, 1, 1] })) }),
      'update_rejected',
      /shape/,
    ],
    ['missing tensor', () => client.train({ model: 'strict', data: base.slice(1) }), 'update_rejected', /missing/],
    [
      'NaN',
      () => client.train({ model: 'strict', data: base.map((t) => ({ ...t, data: t.data.map(() => Number.NaN) })) }),
      'update_rejected',
      /NaN/,
    ],
    [
      'garbage',
      () => client.train({ model: 'strict', data: new Uint8Array(100).fill(7) }),
      'update_rejected',
      /cannot be read/,
    ],
    [
      'values that do not fill a shape',
      () => client.train({ model: 'strict', data: { w: { shape: [3], data: [1] } } }),
      'invalid_input',
      /needs 3 values/,
    ],
    [
      'another target',
      () => client.train({ model: 'strict', data: rowsOf(0), targetCol: 'age' }),
      'invalid_input',
      /learned "diagnosis"/,
    ],
    [
      'no target column',
      () => client.train({ model: 'strict', data: rowsOf(0).map(({ diagnosis: _, ...row }) => row) }),
      'data_mismatch',
      /diagnosis/,
    ],
    ['too few rows', () => client.train({ model: 'strict', data: rowsOf(0, 8) }), 'too_few_rows', /fewer than 10/],
    ['no rows', () => client.train({ model: 'strict', data: [] }), 'invalid_input', /no rows/],
    [
      'no file',
      () => client.train({ model: 'strict', data: '/nowhere/patients.csv' }),
      'data_unreadable',
      /no such file/,
    ],
    [
      'a place of no kind',
      () => client.train({ model: 'strict', data: 'ftp://host/patients.parquet' }),
      'invalid_input',
      /cannot be read from ftp: URLs; write a path, file:, s3:/,
    ],
    [
      'a dead server',
      () => client.train({ model: 'strict', data: 'http://127.0.0.1:9/a.csv' }),
      'network_unavailable',
      /127\.0\.0\.1:9\/a\.csv: .*cannot be reached/,
    ],
    ['rounds', () => client.train({ model: 'strict', data: rowsOf(0), rounds: 0 }), 'invalid_input', /rounds/],
    ['samples', () => client.train({ model: 'strict', data: base, sampleCount: -1 }), 'invalid_input', /sampleCount/],
    [
      'a training function that fails',
      () =>
        client.trainFromRemote({
          model: 'strict',
          localTrainFn: () => {
            throw new TypeError('no loader');
          },
        }),
      'training_failed',
      /no loader/,
    ],
    [
      'a round that there is not',
      () => client.joinRound({ roundId: 'nothing', data: rowsOf(0) }),
      'not_found',
      /nothing/,
    ],
    [
      'stopped before',
      () => client.train({ model: 'strict', data: rowsOf(0), signal: AbortSignal.abort() }),
      'cancelled',
      /cancelled/,
    ],
  ];
  for (const [what, act, code, text] of table) {
    const error = await failure(act());
    expect([what, error.code]).toEqual([what, code]);
    expect(error.message).toMatch(text);
  }
  await fleet.registry.ensureModel({ name: 'without-version' });
  const error = await failure(client.train({ model: 'without-version', data: rowsOf(0), targetCol: 'nothing' }));
  expect(error).toMatchObject({ code: 'data_mismatch' });
  expect(error.reason).toMatch(/targetCol.*age/);
});

test('on the wire as published clients write it: register, weights as base64, aggregate', async () => {
  const version = await modelWithBase('wire');
  const registered = await ask('POST', '/devices/register', {
    device_identifier: 'python-1',
    org_id: 'whatever',
    platform: 'linux',
  });
  const device = String(registered.json['id']);
  const base = await baseOf('wire', version);
  const shifted = base.map((tensor) => ({ ...tensor, data: tensor.data.map((value) => value + 1) }));
  const { writeTorchZip, writeNpy } = await import('@octomil/shared/formats');
  const chunks: Uint8Array[] = [];
  for await (const chunk of writeTorchZip(shifted)) chunks.push(chunk);
  const body = {
    ...{ model_id: 'wire', version, device_id: device, sample_count: 1000, metrics: { loss: 0.42 } },
    ...{
      update_format: 'weights',
      weights_data: Buffer.concat(chunks).toString('base64'),
      detected_features: ['age', 'pressure'],
    },
  };
  const uploaded = await ask('POST', '/training/weights', body);
  expect([uploaded.status, uploaded.json['status']]).toEqual([200, 'accepted']);
  // The same once more, as a retry does.
  expect((await ask('POST', '/training/weights', body)).json['update_id']).toBe(uploaded.json['update_id']);

  const vector = Float32Array.from(base.flatMap(({ data }) => [...data.map(() => 2)]));
  const other = await ask('POST', '/devices/register', { device_identifier: 'python-2' });
  const npy = await ask('POST', '/training/weights', {
    ...{
      model_id: 'wire',
      version,
      device_id: other.json['id'],
      sample_count: 3000,
      metrics: {},
      update_format: 'delta',
    },
    weights_data: Buffer.from(writeNpy({ shape: [vector.length], data: vector })).toString('base64'),
  });
  expect(npy.json).toMatchObject({ status: 'accepted' });

  const made = await ask('POST', '/training/aggregate', {
    ...{
      model_id: 'wire',
      base_version: version,
      new_version: '2.0.0',
      min_updates: 3,
      publish: true,
      strategy: 'metrics',
    },
    ...{ update_format: 'delta', architecture: null, input_dim: 16, hidden_dim: 8, output_dim: 4 },
  });
  expect(made.json).toMatchObject({ status: 'completed', new_version: '2.0.0' });
  expect(await ask('GET', '/training/rounds?device_id=nobody&status=active')).toMatchObject({ status: 404 });
  const matrix = await ask('POST', '/feature-alignment/projection-matrix', {
    features: ['a', 'b'],
    n_features: 2,
    input_dim: 4,
  });
  expect((matrix.json['matrix'] as number[][]).map((row) => row.length)).toEqual([4, 4]);

  const own = `/training/personalized/${device}`;
  expect((await ask('GET', own)).status).toBe(404);
  expect((await ask('POST', own, { weights_data: 'AAEC', metrics: { loss: 1 } })).status).toBe(200);
  expect((await ask('GET', own)).json).toMatchObject({ weights_data: 'AAEC' });

  const refused: [Record<string, unknown>, number, string][] = [
    [{ device_id: 'nobody' }, 404, 'device_not_registered'],
    [{ model_id: 'nonexistent' }, 404, 'model_not_found'],
    [{ version: '7.7.7' }, 404, 'version_not_found'],
    [{ weights_data: 'not base64!' }, 400, 'invalid_input'],
    [{ update_format: 'other' }, 400, 'invalid_input'],
    [{ sample_count: -1 }, 400, 'invalid_input'],
    [{ round_id: 'nothing' }, 404, 'not_found'],
    [{ weights_data: 'A'.repeat(2 * 1024 * 1024) }, 413, 'too_large'],
  ];
  for (const [change, status, code] of refused) {
    const answer = await ask('POST', '/training/weights', { ...body, ...change });
    expect([Object.keys(change)[0], answer.status, answer.json['code']]).toEqual([
      Object.keys(change)[0],
      status,
      code,
    ]);
  }
});

test('raw bytes go by without a JSON body, up to what the model has', async () => {
  const version = await modelWithBase('raw');
  const base = await baseOf('raw', version);
  const { deviceId } = await clientOf('raw-1').register();
  const bytes = encodeWeights(base);
  const put = async (query: Record<string, string>, body: Uint8Array, headers: Record<string, string> = {}) => {
    const asked = { model_id: 'raw', version, device_id: deviceId, sample_count: '5', ...query };
    const answer = await fetch(`${fleet.apiBase}/training/updates?${new URLSearchParams(asked).toString()}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${fleet.apiKey}`, 'content-type': 'application/octet-stream', ...headers },
      body: new Blob([Uint8Array.from(body)]),
    });
    return { status: answer.status, json: (await answer.json()) as Record<string, unknown> };
  };
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const good = await put({ sha256 }, bytes, { 'x-octomil-metrics': '{"loss": 0.5}' });
  expect(good).toMatchObject({ status: 200, json: { status: 'accepted', sha256, metrics: { loss: 0.5 } } });
  const table: [string, Awaited<ReturnType<typeof put>>, number, string][] = [
    ['another digest', await put({ sha256: 'a'.repeat(64) }, bytes), 422, 'checksum_mismatch'],
    ['too many bytes', await put({}, new Uint8Array(20 * 1024 * 1024)), 413, 'too_large'],
    ['cut off', await put({}, bytes.subarray(0, bytes.length - 4)), 422, 'update_rejected'],
    ['nothing', await put({}, new Uint8Array(0)), 400, 'invalid_input'],
    ['metrics that are none', await put({}, bytes, { 'x-octomil-metrics': '[1]' }), 400, 'invalid_input'],
    ['another device', await put({ device_id: 'nobody' }, bytes), 404, 'device_not_registered'],
    ['no version', await put({ version: '' }, bytes), 400, 'invalid_input'],
  ];
  for (const [what, { status, json }, expected, code] of table) {
    expect([what, status, json['code']]).toEqual([what, expected, code]);
  }
});

test('a device may speak for itself, and for no other', async () => {
  const version = await modelWithBase('own');
  const base = await baseOf('own', version);
  const { token } = await fleet.organization.createEnrollmentToken();
  const device = await FakeDevice.enroll(fleet.grpcAddress, String(token), 'enrolled-1');
  const { deviceId: other } = await clientOf('somebody-else').register();
  const upload = async (deviceId: string) => {
    const query = new URLSearchParams({ model_id: 'own', version, device_id: deviceId });
    const answer = await fetch(`${fleet.apiBase}/training/updates?${query.toString()}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${device.credential}`, 'content-type': 'application/octet-stream' },
      body: new Blob([Uint8Array.from(encodeWeights(base))]),
    });
    return { status: answer.status, json: (await answer.json()) as Record<string, unknown> };
  };
  try {
    expect(await upload(device.deviceId)).toMatchObject({ status: 200, json: { status: 'accepted' } });
    expect(await upload(other)).toMatchObject({ status: 404, json: { code: 'device_not_registered' } });
  } finally {
    await device.close();
  }
});

test('clients that begin a model at once begin one', async () => {
  await fleet.registry.ensureModel({ name: 'begun' });
  const results = await Promise.all(
    [0, 1, 2].map((site) =>
      clientOf(`begins-${site}`).train({ model: 'begun', data: rowsOf(site), targetCol: 'diagnosis' }),
    ),
  );
  expect(new Set(results.map(({ version }) => version)).size).toBe(1);
  expect(new Set(results.map(({ roundId }) => roundId)).size).toBe(1);
  expect(await fleet.registry.versions('begun')).toHaveLength(1);
  // Published clients start from torch zips, which are made in the background.
  const pull = () => clientOf('begins-0').pullModel({ model: 'begun', version: '1.0.0', format: 'pytorch' });
  await until(() =>
    pull().then(
      () => true,
      () => false,
    ),
  );
  const { readTorchZip } = await import('@octomil/shared/formats');
  const { tensors } = await readTorchZip(await pull());
  expectClose(
    [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1)),
    await baseOf('begun', '1.0.0'),
  );
});

test('a session as published clients ask for one is a session that selects its devices', async () => {
  await modelWithBase('published');
  const body = { model_id: 'published', group: 'default', strategy: 'fedavg', rounds: 10, min_updates: 1 };
  const answer = await ask('POST', '/training/sessions', body);
  expect(answer).toMatchObject({ status: 201, json: { status: 'running', admission: 'assigned', total_rounds: 10 } });
  const stopped = await ask('POST', '/training/published/stop', {});
  expect(stopped.json['sessions']).toContain(answer.json['session_id']);
});

test('a training is stopped while it runs, and leaves no file', async () => {
  await modelWithBase('stopped');
  const stop = new AbortController();
  const data = rowsOf(1, 4000);
  const training = clientOf('stopped').train({
    ...{ model: 'stopped', data, local: { epochs: 1000, batchSize: 10 }, signal: stop.signal },
    onProgress: () => stop.abort(),
  });
  expect(await failure(training)).toMatchObject({ code: 'cancelled' });
  expect((await readdir(tmpdir())).filter((entry) => entry.startsWith('octomil-client-'))).toEqual([]);
});

test('a federation may refuse devices that were only registered', async () => {
  const version = await modelWithBase('enrolled-only');
  const base = await baseOf('enrolled-only', version);
  const path = '/training/federations/default/shared-identities';
  expect((await ask('PUT', path, { allowed: false })).status).toBe(200);
  try {
    const error = await failure(clientOf('merely-registered').train({ model: 'enrolled-only', data: base }));
    expect(error).toMatchObject({ code: 'forbidden', status: 403 });
  } finally {
    await ask('PUT', path, { allowed: true });
  }
});

test('a client keeps layers of its own between trainings, and loads them into a version', async () => {
  const model = 'personal-layers';
  await fleet.registry.ensureModel({ name: model });
  const data = rowsOf(0);
  const client = clientOf('personal-client');
  const architecture = { name: 'mlp', hidden: [4] };
  await client.train({ model, data, targetCol: 'diagnosis', architecture });
  const personalFolder = join(fleet.folder, 'personal-of-client');
  const personalization = { method: 'fedper', headLayers: ['output'] } as const;
  const options = { model, data, personalization, personalFolder, updateFormat: 'delta' } as const;
  const first = await client.train(options);
  const stayed = ['output/bias', 'output/kernel'];
  expect(first.metrics['personalization']).toEqual({ method: 'fedper', stayed, startedFrom: 'base' });
  const second = await client.train(options);
  expect(second.metrics['personalization']).toMatchObject({ startedFrom: 'kept' });
  const own = await client.personalModel({ folder: personalFolder, model });
  expect(own).toMatchObject({ method: 'fedper', rounds: 2, architecture: { name: 'mlp' } });
  for (const { name, data: values } of await baseOf(model, second.version)) {
    const same = expect([name, [...(own.weights[name]?.data ?? [])]]);
    if (stayed.includes(name)) same.not.toEqual([name, [...values]]);
    else same.toEqual([name, [...values]]);
  }
  await expect(client.train({ model, data, personalization })).rejects.toMatchObject({
    code: 'invalid_input',
    message: expect.stringMatching(/needs personalFolder/),
  });
  await expect(
    client.train({ ...options, personalization: { method: 'fedper', headLayers: ['dense_9'] } }),
  ).rejects.toThrow(/names dense_9.*dense_1, output/);
  await expect(client.train({ ...options, data: own.weights })).rejects.toMatchObject({
    code: 'training_not_supported',
  });
  await expect(client.personalModel({ folder: personalFolder, model: 'other' })).rejects.toMatchObject({
    code: 'not_found',
  });
});
