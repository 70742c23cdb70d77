// Runs a command with servers of its own that speak S3, GCS and Azure, on free ports of the loopback and in a temporary
// folder, and stops them after it.
//
//   node scripts/with-clouds.js COMMAND [ARGUMENT …]
//
// The command finds them in TEST_S3_URL, TEST_GCS_URL and TEST_AZURE_URL (`s3://bucket`, `gs://bucket`,
// `az://container`) and in each provider's usual variables. What `scripts/install-emulators.js` did not install is left
// out by name. Without Go, or with OCTOMIL_CLOUDS=without-go, s3rver and our own scripts/gcs-fake.js stand in for the
// two servers that are Go programs: TEST_S3_SERVER and TEST_GCS_SERVER say which one it is.
import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const installed = resolve(import.meta.dirname, '../node_modules/.emulators');
const folder = mkdtempSync(join(tmpdir(), 'octomil-clouds-'));
const started = [];
const BUCKET = 'octomil-test';
const withGo = process.env.OCTOMIL_CLOUDS !== 'without-go';

function freePort() {
  return new Promise((done, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

function answers(port) {
  return new Promise((done) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
    socket.once('close', () => socket.destroy());
    setTimeout(() => socket.destroy(), 1000).unref();
  });
}

async function start(name, program, args, port, options = {}) {
  const child = spawn(program, args, { stdio: process.env.OCTOMIL_CLOUD_LOGS ? 'inherit' : 'ignore', ...options });
  let failed;
  child.once('error', (error) => {
    failed = error.message;
  });
  started.push(child);
  for (let attempt = 0; attempt < 300; attempt += 1) {
    if (await answers(port)) return;
    if (failed !== undefined || child.exitCode !== null) break;
    await sleep(100);
  }
  throw new Error(`${name} did not start on port ${port}${failed === undefined ? '' : `: ${failed}`}`);
}

function found(...path) {
  const program = join(installed, ...path);
  return existsSync(program) ? program : undefined;
}

async function startS3() {
  const data = join(folder, 's3');
  mkdirSync(join(data, BUCKET), { recursive: true });
  const port = await freePort();
  const gateway = withGo ? found('bin', 'versitygw') : undefined;
  const stub = found('node_modules', '.bin', 's3rver');
  // s3rver knows one pair of keys only.
  const [key, secret] =
    gateway === undefined ? ['S3RVER', 'S3RVER'] : ['octomil-access', 'octomil-secret-of-the-tests'];
  if (gateway !== undefined) {
    const sidecar = join(folder, 'metadata');
    mkdirSync(sidecar);
    await start(
      'versitygw',
      gateway,
      [
        '--access',
        key,
        '--secret',
        secret,
        '--port',
        `127.0.0.1:${port}`,
        '--quiet',
        'posix',
        '--sidecar',
        sidecar,
        data,
      ],
      port,
    );
  } else if (stub !== undefined) {
    const args = ['-d', data, '-a', '127.0.0.1', '-p', String(port), '--configure-bucket', BUCKET, '--silent'];
    await start('s3rver', stub, args, port);
  } else return undefined;
  return {
    name: gateway === undefined ? 's3rver' : 'versitygw',
    variables: {
      TEST_S3_URL: `s3://${BUCKET}`,
      TEST_S3_SERVER: gateway === undefined ? 's3rver' : 'versitygw',
      AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${port}`,
      AWS_ACCESS_KEY_ID: key,
      AWS_SECRET_ACCESS_KEY: secret,
      AWS_REGION: 'us-east-1',
    },
  };
}

async function startGcs() {
  const program = withGo ? found('bin', 'fake-gcs-server') : undefined;
  const name = program === undefined ? 'gcs-fake.js' : 'fake-gcs-server';
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const [command, args] =
    program === undefined
      ? [process.execPath, [join(import.meta.dirname, 'gcs-fake.js'), String(port)]]
      : [
          program,
          [
            ...['-scheme', 'http', '-host', '127.0.0.1', '-port', String(port), '-public-host', `127.0.0.1:${port}`],
            ...['-external-url', url, '-backend', 'memory', '-log-level', 'error'],
          ],
        ];
  await start(name, command, args, port);
  const made = await fetch(`${url}/storage/v1/b?project=test`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name: BUCKET }),
  });
  if (!made.ok) throw new Error(`${name} made no bucket: ${made.status} ${await made.text()}`);
  // Neither checks signatures, but the client needs a key to make one.
  const { privateKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  const account = join(folder, 'service-account.json');
  const email = 'test@octomil-test.iam.gserviceaccount.com';
  const content = { type: 'service_account', project_id: 'octomil-test', client_email: email, private_key: privateKey };
  writeFileSync(account, JSON.stringify(content), { mode: 0o600 });
  return {
    name,
    variables: {
      TEST_GCS_URL: `gs://${BUCKET}`,
      TEST_GCS_SERVER: name,
      STORAGE_EMULATOR_HOST: url,
      GOOGLE_APPLICATION_CREDENTIALS: account,
    },
  };
}

async function startAzure() {
  const program = found('node_modules', '.bin', 'azurite-blob');
  if (program === undefined) return undefined;
  const data = join(folder, 'azure');
  mkdirSync(data);
  const port = await freePort();
  await start(
    'Azurite',
    program,
    [
      ...['--blobHost', '127.0.0.1', '--blobPort', String(port), '--location', data, '--silent'],
      ...['--skipApiVersionCheck', '--disableTelemetry'],
    ],
    port,
  );
  // The account that every emulator of Azure has, by Microsoft's documentation; it opens nothing else.
  const key = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==';
  const endpoint = `http://127.0.0.1:${port}/devstoreaccount1`;
  const connection = `DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=${key};BlobEndpoint=${endpoint};`;
  // biome-ignore lint/correctness/noUndeclaredDependencies: it is a workspace's, and only emulators need it here
  const { BlobServiceClient } = await import('@azure/storage-blob');
  await BlobServiceClient.fromConnectionString(connection).createContainer(BUCKET);
  return {
    name: 'Azurite',
    variables: { TEST_AZURE_URL: `az://${BUCKET}`, AZURE_STORAGE_CONNECTION_STRING: connection },
  };
}

async function stopAll() {
  for (const child of started) {
    if (child.exitCode !== null || child.pid === undefined) continue;
    const ended = new Promise((done) => child.once('exit', done));
    child.kill('SIGTERM');
    await Promise.race([ended, sleep(3000).then(() => child.kill('SIGKILL'))]);
  }
  rmSync(folder, { recursive: true, force: true });
}

const [command, ...args] = process.argv.slice(2);
if (command === undefined) {
  console.error('usage: node scripts/with-clouds.js COMMAND [ARGUMENT …]');
  process.exit(2);
}
let status = 1;
try {
  const clouds = { S3: await startS3(), GCS: await startGcs(), Azure: await startAzure() };
  const told = Object.entries(clouds).map(([cloud, server]) => `${cloud} ${server?.name ?? 'not installed, left out'}`);
  console.error(`clouds: ${told.join('; ')}`);
  const variables = Object.assign({}, ...Object.values(clouds).map((server) => server?.variables ?? {}));
  const child = spawn(command, args, { stdio: 'inherit', env: { ...process.env, ...variables } });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  status = await new Promise((done) => child.once('exit', (code) => done(code ?? 1)));
} catch (error) {
  console.error(error.message);
} finally {
  await stopAll();
}
process.exit(status);
