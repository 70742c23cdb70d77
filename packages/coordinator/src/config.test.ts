import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { readCoordinatorConfig, redactedCoordinatorConfig } from './config.js';

test('defaults are a loopback address and embedded stores', () => {
  const config = readCoordinatorConfig({ OCTOMIL_DATA_DIR: '/data' });
  expect(config).toMatchObject({
    host: '127.0.0.1',
    restPort: 8000,
    grpcPort: 8001,
    objectFolder: '/data/objects',
    tls: undefined,
    keepUpdatesHours: 24,
    secrets: { databaseUrl: undefined, redisUrl: undefined },
  });
});

test('every problem is reported at once, and no password with it', () => {
  const environment = {
    OCTOMIL_HOST: '0.0.0.0',
    OCTOMIL_REST_PORT: 'eighty',
    DATABASE_URL: 'mysql://u:hunter2@h/d',
    REDIS_URL: 'hunter2',
    OBJECT_STORE_URL: 's3://',
    OCTOMIL_TLS_KEY: 'key.pem',
  };
  expect(() => readCoordinatorConfig(environment)).toThrow(/OCTOMIL_REST_PORT=eighty/);
  try {
    readCoordinatorConfig({ ...environment, OCTOMIL_REST_PORT: '1' });
    expect('no error').toBe('an error');
  } catch (error) {
    const { code, message, details } = error as OctomilError;
    expect(code).toBe('config_invalid');
    expect(details?.['problems']).toHaveLength(5);
    expect(message).not.toContain('hunter2');
  }
});

test('what is shown hides secrets', () => {
  const config = readCoordinatorConfig({
    DATABASE_URL: 'postgres://u:hunter2@h/d',
    OCTOMIL_PUBLIC_URL: 'https://o.example/',
  });
  const shown = redactedCoordinatorConfig(config);
  expect(shown).toMatchObject({
    DATABASE_URL: '[redacted]',
    REDIS_URL: '',
    OCTOMIL_PUBLIC_URL: 'https://o.example',
    OCTOMIL_REST_PORT: '8000',
  });
  expect(JSON.stringify(shown)).not.toContain('hunter2');
});

test('plaintext off loopback needs saying so', () => {
  expect(() => readCoordinatorConfig({ OCTOMIL_HOST: '10.0.0.1' })).toThrow(OctomilError);
  expect(readCoordinatorConfig({ OCTOMIL_HOST: '10.0.0.1', OCTOMIL_INSECURE: '1' }).insecure).toBe(true);
});

test('an object folder is shared only beside PostgreSQL, and only when its URL says so', () => {
  const DATABASE_URL = 'postgres://h/d';
  const read = (OBJECT_STORE_URL: string, more: object = { DATABASE_URL }) =>
    readCoordinatorConfig({ OCTOMIL_DATA_DIR: '/data', OBJECT_STORE_URL, ...more });
  expect(read('file:///a%20b?shared=true')).toMatchObject({ objectFolder: '/a b', objectsShared: true });
  expect(read('file:///a')).toMatchObject({ objectFolder: '/a', objectsShared: false });
  expect(redactedCoordinatorConfig(read('file:///a?shared=true'))['OBJECT_STORE_URL']).toBe('file:/a?shared=true');
  expect(() => read('file:///a?shared=true', {})).toThrow(/set DATABASE_URL/);
  expect(() => read('file:///a?shared=yes')).toThrow(/shared=yes/);
  expect(() => read('file:///a?shard=true')).toThrow(/shard=true/);
});

test('objects may live in a bucket, and a signature in its URL is not shown', () => {
  const read = (OBJECT_STORE_URL: string) => readCoordinatorConfig({ OCTOMIL_DATA_DIR: '/data', OBJECT_STORE_URL });
  for (const url of ['s3://bucket/prefix', 'gs://bucket', 'az://container/a/b']) {
    expect(read(url)).toMatchObject({ objectFolder: '/data/objects', secrets: { bucketUrl: url } });
  }
  const shown = redactedCoordinatorConfig(read('https://account.blob.core.windows.net/data/octomil?sv=1&sig=hunter2'));
  expect(shown['OBJECT_STORE_URL']).toBe('https://account.blob.core.windows.net/data/octomil/');
  expect(() => read('ftp://host/x')).toThrow(/must be s3:\/\/BUCKET/);
  expect(() => read('s3://bucket/a b')).toThrow(/"a b"/);
});

test('updates are kept for whole hours, none and ten years included', () => {
  const read = (hours: string) => readCoordinatorConfig({ OCTOMIL_KEEP_UPDATES_HOURS: hours }).keepUpdatesHours;
  expect(['0', '168', '87600'].map(read)).toEqual([0, 168, 87_600]);
  expect(() => read('-1')).toThrow(/OCTOMIL_KEEP_UPDATES_HOURS=-1/);
});

test('trusted proxies are addresses, networks or the words for them', () => {
  const read = (OCTOMIL_TRUSTED_PROXIES: string) => readCoordinatorConfig({ OCTOMIL_TRUSTED_PROXIES }).trustedProxies;
  expect(read('10.0.0.0/8, ::1,loopback')).toBe('10.0.0.0/8, ::1,loopback');
  expect(() => read('10.0.0.0/33')).toThrow(/10\.0\.0\.0\/33/);
  expect(() => read('proxy.example')).toThrow(/OCTOMIL_TRUSTED_PROXIES has "proxy\.example"/);
});

test('model servers of inference: defaults, none, problems, and no key shown', () => {
  const read = (environment: Record<string, string>) =>
    readCoordinatorConfig({ OCTOMIL_DATA_DIR: '/data', ...environment });
  expect(read({}).inference).toEqual({
    ollamaBaseUrl: 'http://localhost:11434',
    openAiEndpoint: undefined,
    timeoutMs: 30_000,
    maxShareRatio: 0.8,
  });
  const config = read({ OLLAMA_BASE_URL: 'none', OPENAI_API_ENDPOINT: 'http://h/v1', OPENAI_API_KEY: 'sk-hunter2' });
  expect(config.inference).toMatchObject({ ollamaBaseUrl: undefined, openAiEndpoint: 'http://h/v1' });
  expect(config.secrets.openAiApiKey).toBe('sk-hunter2');
  expect(JSON.stringify(redactedCoordinatorConfig(config))).not.toContain('hunter2');
  expect(() => read({ OLLAMA_BASE_URL: 'ollama:11434' })).toThrow(/OLLAMA_BASE_URL must be a URL/);
  expect(() => read({ LLM_BACKEND_TIMEOUT: 'soon' })).toThrow(/LLM_BACKEND_TIMEOUT=soon/);
  expect(() => read({ LLM_MAX_SHARE: '1.5' })).toThrow(/LLM_MAX_SHARE=1.5/);
});
