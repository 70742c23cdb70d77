import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { crc32, deflateSync } from 'node:zlib';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openPredictor, startServe } from '@octomil/inference/serve';
import { parseModelDocument, seededRandom } from '@octomil/shared/models';
import { InProcessTrainer } from '@octomil/shared/training';
import { type Fleet, startFleet } from '../fleet/fleet.js';

let fleet: Fleet;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-xray-'));
}, 240_000);
afterAll(async () => {
  await fleet?.stop();
  await rm(folder, { recursive: true, force: true });
}, 240_000);

const SIDE = 16;

/** A PNG of 8 bits of grey; each row begins with its filter, 0. */
function greyPng(width: number, height: number, rows: readonly number[]): Buffer {
  const chunk = (type: string, data: Uint8Array): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(data.length);
    frame.writeUInt32BE(crc32(body), 4);
    return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header[8] = 8;
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const rest = [chunk('IDAT', deflateSync(Uint8Array.from(rows))), chunk('IEND', new Uint8Array())];
  return Buffer.concat([signature, chunk('IHDR', header), ...rest]);
}

/** Noise with a bright bar: upright where ill, level where well. */
function scan(ill: boolean, seed: number): Buffer {
  const random = seededRandom(seed, 'scan');
  const rows: number[] = [];
  const at = Math.floor(random.uniform() * (SIDE - 2));
  for (let y = 0; y < SIDE + 4; y++) {
    rows.push(0);
    for (let x = 0; x < SIDE; x++) {
      const isBar = ill ? Math.abs(x - at) < 2 : Math.abs(y - at - 2) < 2;
      rows.push((isBar ? 150 : 20) + Math.floor(random.uniform() * 60));
    }
  }
  return greyPng(SIDE, SIDE + 4, rows);
}

interface Scan {
  readonly ill: boolean;
  readonly bytes: Buffer;
}

const scans = (count: number, seed: number): Scan[] =>
  Array.from({ length: count }, (_, i) => ({ ill: i % 2 === 0, bytes: scan(i % 2 === 0, seed + i) }));

async function put(path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
}

/** One site of each kind: folders by class, a table of labels, Parquet. */
async function writeSites(): Promise<void> {
  for (const [i, { ill, bytes }] of scans(60, 1_000).entries()) {
    await put(join(folder, 'classes', ill ? 'Ill' : 'well', `${i}.png`), bytes);
  }
  const lines = ['image,label,ward'];
  for (const [i, { ill, bytes }] of scans(60, 2_000).entries()) {
    await put(join(folder, 'table/scans', `${i}.png`), bytes);
    lines.push(`scans/${i}.png,${ill ? 'ill' : 'well'},${i % 3}`);
  }
  await put(join(folder, 'table/labels.csv'), lines.join('\n'));
  for (const [i, { ill, bytes }] of scans(60, 3_000).entries()) {
    await put(join(folder, 'raw', ill ? 'ill' : 'well', `${i}.png`), bytes);
  }
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  await connection.run(
    `COPY (SELECT {'bytes': content, 'path': filename} AS picture, split_part(filename, '/', -2) AS label FROM read_blob('${folder}/raw/*/*.png')) TO '${folder}/scans.parquet' (FORMAT parquet)`,
  );
  connection.closeSync();
}

test('three sites with pictures in folders, behind a table and in Parquet train one network, which tells them apart', async () => {
  await writeSites();
  fleet = await startFleet({
    agents: [
      { name: 'folders', dataSets: { default: { path: join(folder, 'classes'), images: {} } } },
      { name: 'table', dataSets: { default: { path: join(folder, 'table'), images: { labels: 'labels.csv' } } } },
      {
        name: 'parquet',
        dataSets: { default: { path: join(folder, 'scans.parquet'), images: { column: 'picture' } } },
      },
    ],
  });
  const devices = JSON.stringify(await fleet.organization.listDevices());
  expect(devices).toContain('images');
  await fleet.registry.ensureModel({ name: 'xray' });
  const architecture = { name: 'cnn', inputShape: [12, 12, 1], filters: [8], hidden: 16 };
  const session = await fleet.federation().train({
    ...{ model: 'xray', architecture, target: 'label', rounds: 3, minUpdates: 3, seed: 5 },
    local: { epochs: 4, batchSize: 16, learningRate: 0.02, optimizer: 'adam' },
  });
  expect(session.metrics?.overall?.auc).toBeGreaterThan(0.95);

  const version = { model: 'xray', version: String(session.version ?? 'latest') };
  const documentPath = join(folder, 'model.json');
  const weightsPath = join(folder, 'weights.safetensors');
  await writeFile(documentPath, (await fleet.registry.pullModel({ ...version, format: 'model.json' })).bytes);
  await writeFile(weightsPath, (await fleet.registry.pullModel({ ...version, format: 'safetensors' })).bytes);
  const { featureSpec } = parseModelDocument(await readFile(documentPath));
  expect(featureSpec?.columns).toMatchObject([{ kind: 'image', name: 'image', height: 12, width: 12, channels: 1 }]);
  expect(featureSpec?.target.classes).toEqual(['ill', 'well']);

  const unseen = scans(20, 9_000);
  const trainer = new InProcessTrainer();
  const ids = { modelId: 'm', versionId: 'v', modelName: 'xray', version: '1' };
  const predictor = openPredictor({ trainer, versions: [{ ...ids, documentPath, weightsPath, onnxPath: undefined }] });
  const answer = await predictor.predict(
    'xray',
    unseen.map(({ bytes }) => ({ image: bytes })),
  );
  const right = answer.predictions.filter(
    (one, i) => 'class' in one && one.class === (unseen[i]?.ill === true ? 'ill' : 'well'),
  );
  expect(right.length).toBeGreaterThan(17);

  const server = await startServe({ models: {}, predictor, port: 0 });
  const ask = (inputs: unknown) =>
    fetch(`${server.url}/v1/predict`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'xray', inputs }),
    });
  const served = await ask(unseen.map(({ bytes }) => ({ image: bytes.toString('base64') })));
  expect(((await served.json()) as typeof answer).predictions).toEqual(answer.predictions);
  const refused = await ask([{ image: 'no picture!' }]);
  expect([refused.status, await refused.text()]).toEqual([400, expect.stringMatching(/it is no picture/)]);
  await server.stop();
  await predictor.stop();
  await trainer.stop();
}, 300_000);
