import { isIP } from 'node:net';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DEFAULT_OLLAMA_BASE_URL, type GatewayConfig, gatewayConfigFromEnvironment } from '@octomil/inference/gateway';
import { OctomilError } from '@octomil/shared/errors';
import {
  choiceSetting,
  describeSettings,
  flagSetting,
  integerSetting,
  type LogLevel,
  readSettings,
  reportProblems,
  textSetting,
} from '@octomil/shared/runtime';
import { bucketOfStore, describeBucket } from '@octomil/shared/storage';

const PORT = { min: 0, max: 65_535 };
const LOG_LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error', 'silent'];

/** Every variable a coordinator reads, in one place. Secrets are marked, and never printed. */
const SETTINGS = {
  host: textSetting('OCTOMIL_HOST', '127.0.0.1', 'address that REST and gRPC listen on'),
  restPort: integerSetting('OCTOMIL_REST_PORT', 8000, 'port of REST; 0 takes a free one', PORT),
  grpcPort: integerSetting('OCTOMIL_GRPC_PORT', 8001, 'port of gRPC; 0 takes a free one', PORT),
  dataDir: textSetting('OCTOMIL_DATA_DIR', undefined, 'folder of the embedded stores'),
  databaseUrl: textSetting('DATABASE_URL', undefined, 'PostgreSQL in place of the embedded database', { secret: true }),
  redisUrl: textSetting('REDIS_URL', undefined, 'Redis in place of the database for job queues', { secret: true }),
  objectStoreUrl: textSetting(
    'OBJECT_STORE_URL',
    undefined,
    'where objects live: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///var/lib/octomil, where ?shared=true lets several coordinators share a mounted folder',
    { secret: true },
  ),
  tlsCert: textSetting('OCTOMIL_TLS_CERT', undefined, 'PEM file of the certificate'),
  tlsKey: textSetting('OCTOMIL_TLS_KEY', undefined, 'PEM file of its private key'),
  insecure: flagSetting('OCTOMIL_INSECURE', '1 allows plaintext on an address that others can reach'),
  publicUrl: textSetting('OCTOMIL_PUBLIC_URL', undefined, 'base URL of REST as agents and people reach it'),
  coordinatorDownloads: flagSetting(
    'OCTOMIL_COORDINATOR_DOWNLOADS',
    '1 sends downloads through the coordinator, for a bucket that agents and people cannot reach',
  ),
  keepUpdatesHours: integerSetting(
    'OCTOMIL_KEEP_UPDATES_HOURS',
    24,
    "hours that a finished round's updates, and a finished session's events of progress, are kept; 0 deletes them at the next daily run",
    { min: 0, max: 87_600 },
  ),
  rateLimit: integerSetting(
    'OCTOMIL_RATE_LIMIT',
    5000,
    'requests per second of one key, over all coordinators with REDIS_URL; 0 sets no limit',
    { min: 0, max: 1_000_000 },
  ),
  trustedProxies: textSetting(
    'OCTOMIL_TRUSTED_PROXIES',
    undefined,
    'addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas',
  ),
  maxInlineUpdateMib: integerSetting(
    'OCTOMIL_MAX_INLINE_UPDATE_MIB',
    64,
    'largest JSON body with base64 weights, in MiB; raw bytes are not bound by it',
    { min: 1, max: 512 },
  ),
  converters: textSetting('OCTOMIL_CONVERTERS', undefined, 'JSON or YAML file of programs that convert model files'),
  ollamaBaseUrl: textSetting(
    'OLLAMA_BASE_URL',
    DEFAULT_OLLAMA_BASE_URL,
    'Ollama, which inference asks first; none for no Ollama',
  ),
  openAiEndpoint: textSetting('OPENAI_API_ENDPOINT', undefined, 'OpenAI-compatible server that inference asks next'),
  openAiApiKey: textSetting('OPENAI_API_KEY', undefined, 'key of that server', { secret: true }),
  llmBackendTimeout: textSetting(
    'LLM_BACKEND_TIMEOUT',
    '30',
    'seconds for a whole answer of a model server, or for the first and each next token of a stream',
  ),
  llmMaxShare: textSetting(
    'LLM_MAX_SHARE',
    '0.8',
    'of the generations that run at once, what one organization may have: above 0, at most 1',
  ),
  logLevel: choiceSetting('OCTOMIL_LOG_LEVEL', 'info', LOG_LEVELS, 'debug, info, warn, error or silent'),
};

export interface CoordinatorConfig {
  readonly host: string;
  readonly restPort: number;
  readonly grpcPort: number;
  /** Absolute. Default `~/.octomil/coordinator`. */
  readonly dataDir: string;
  /** Absolute folder of the objects, or of what is in the making where they live in a bucket. Default `objects` in the data folder. */
  readonly objectFolder: string;
  /** Whether other coordinators use the object folder too (`?shared=true`). */
  readonly objectsShared: boolean;
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  readonly insecure: boolean;
  /** Without a slash at its end. */
  readonly publicUrl: string | undefined;
  /** Downloads come from here, also where objects live in a bucket. */
  readonly coordinatorDownloads: boolean;
  /** Updates of a finished round are kept so long. */
  readonly keepUpdatesHours: number;
  /** Requests per second of one key; 0: no limit. */
  readonly rateLimit: number;
  readonly trustedProxies: string | undefined;
  /** Largest JSON body with base64 weights. */
  readonly maxInlineUpdateMib: number;
  /** Absolute path of the file of converters. */
  readonly convertersFile: string | undefined;
  /** Model servers behind the gateway. */
  readonly inference: Omit<GatewayConfig, 'openAiApiKey'>;
  readonly logLevel: LogLevel;
  /** What must never be logged: they may hold passwords. */
  readonly secrets: {
    readonly databaseUrl: string | undefined;
    readonly redisUrl: string | undefined;
    readonly openAiApiKey: string | undefined;
    /** Bucket of the objects; its URL may hold a signature. Undefined where they live in the folder. */
    readonly bucketUrl: string | undefined;
  };
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads the configuration: environment, then the file that `OCTOMIL_CONFIG` names, then defaults.
 *
 * @throws OctomilError `config_invalid` naming every problem at once
 */
export function readCoordinatorConfig(environment: Environment): CoordinatorConfig {
  const file = environment['OCTOMIL_CONFIG'];
  const values = readSettings(SETTINGS, environment, file === '' ? undefined : file);
  const problems: string[] = [];
  const dataDir = resolve(values.dataDir ?? join(homedir(), '.octomil', 'coordinator'));
  const bucketUrl = bucketUrlOf(values.objectStoreUrl, problems);
  const folderUrl = bucketUrl === undefined ? values.objectStoreUrl : undefined;
  const { folder: objectFolder, shared: objectsShared } = objectFolderOf(folderUrl, dataDir, problems);
  if (objectsShared && values.databaseUrl === undefined) {
    problems.push(
      'OBJECT_STORE_URL has shared=true, but only one coordinator can use the embedded database: set DATABASE_URL, or take shared=true away',
    );
  }
  if ((values.tlsCert === undefined) !== (values.tlsKey === undefined)) {
    problems.push('OCTOMIL_TLS_CERT and OCTOMIL_TLS_KEY belong together: set both or neither');
  }
  if (values.tlsCert === undefined && !values.insecure && !isLoopback(values.host)) {
    problems.push(
      `OCTOMIL_HOST=${values.host} can be reached by others in plaintext: set OCTOMIL_TLS_CERT and OCTOMIL_TLS_KEY, or OCTOMIL_INSECURE=1 behind a proxy that adds TLS`,
    );
  }
  checkUrl('DATABASE_URL', values.databaseUrl, ['postgres:', 'postgresql:'], problems);
  checkUrl('REDIS_URL', values.redisUrl, ['redis:', 'rediss:'], problems);
  checkUrl('OCTOMIL_PUBLIC_URL', values.publicUrl, ['http:', 'https:'], problems);
  checkProxies(values.trustedProxies, problems);
  const inference = inferenceOf(values, problems);
  reportProblems(problems);
  return Object.freeze({
    host: values.host,
    restPort: values.restPort,
    grpcPort: values.grpcPort,
    dataDir,
    objectFolder,
    objectsShared,
    tls:
      values.tlsCert === undefined || values.tlsKey === undefined
        ? undefined
        : { certFile: resolve(values.tlsCert), keyFile: resolve(values.tlsKey) },
    insecure: values.insecure,
    publicUrl: values.publicUrl?.replace(/\/+$/, ''),
    coordinatorDownloads: values.coordinatorDownloads,
    keepUpdatesHours: values.keepUpdatesHours,
    maxInlineUpdateMib: values.maxInlineUpdateMib,
    rateLimit: values.rateLimit,
    trustedProxies: values.trustedProxies,
    convertersFile: values.converters === undefined ? undefined : resolve(values.converters),
    inference,
    logLevel: values.logLevel,
    secrets: Object.freeze({
      databaseUrl: values.databaseUrl,
      redisUrl: values.redisUrl,
      openAiApiKey: values.openAiApiKey,
      bucketUrl,
    }),
  });
}

/** What may be shown: the settings by name, with `[redacted]` for secrets that are set. */
export function redactedCoordinatorConfig(config: CoordinatorConfig): Record<string, string> {
  const values = {
    ...config,
    ...config.secrets,
    objectStoreUrl: undefined,
    converters: config.convertersFile,
    tlsCert: config.tls?.certFile,
    tlsKey: config.tls?.keyFile,
    ollamaBaseUrl: config.inference.ollamaBaseUrl ?? 'none',
    openAiEndpoint: config.inference.openAiEndpoint,
    llmBackendTimeout: config.inference.timeoutMs / 1000,
  };
  const shown = Object.fromEntries(
    describeSettings(SETTINGS, values).map((line) => {
      const [name = '', ...value] = line.split('=');
      return [name, value.join('=')];
    }),
  );
  return { ...shown, OBJECT_STORE_URL: describeObjectStore(config) };
}

/** Where objects live, without a signature that the URL may hold. */
function describeObjectStore({ secrets, objectFolder, objectsShared }: CoordinatorConfig): string {
  if (secrets.bucketUrl === undefined) return `file:${objectFolder}${objectsShared ? '?shared=true' : ''}`;
  const { address, prefix } = bucketOfStore(secrets.bucketUrl);
  return `${describeBucket(address)}${prefix}`;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** The URL where it names a bucket. */
function bucketUrlOf(url: string | undefined, problems: string[]): string | undefined {
  if (url === undefined || url.startsWith('file:')) return undefined;
  try {
    bucketOfStore(url);
  } catch (error) {
    problems.push(`OBJECT_STORE_URL: ${error instanceof OctomilError ? error.reason : 'not a URL'}`);
  }
  return url;
}

interface ObjectFolder {
  readonly folder: string;
  readonly shared: boolean;
}

function objectFolderOf(url: string | undefined, dataDir: string, problems: string[]): ObjectFolder {
  const fallback = { folder: join(dataDir, 'objects'), shared: false };
  if (url === undefined) return fallback;
  const [address = '', query = ''] = url.split('?', 2);
  const options = new URLSearchParams(query);
  const unknown = [...options].filter(([name, value]) => name !== 'shared' || !/^(true|false)$/.test(value));
  if (unknown.length > 0) {
    const named = unknown.map(([name, value]) => `${name}=${value}`).join(' and ');
    problems.push(`OBJECT_STORE_URL has ${named}; for file: there is only shared=true or shared=false`);
  }
  const shared = options.get('shared') === 'true';
  try {
    // `file:relative` is taken from the working directory, `file:///absolute` as URLs have it.
    const folder = address.startsWith('file:/') ? fileURLToPath(address) : resolve(address.slice('file:'.length));
    return { folder, shared };
  } catch (error) {
    problems.push(`OBJECT_STORE_URL=${url} is not a folder: ${error instanceof Error ? error.message : error}`);
    return fallback;
  }
}

function inferenceOf(
  values: {
    readonly ollamaBaseUrl: string;
    readonly openAiEndpoint: string | undefined;
    readonly llmBackendTimeout: string;
    readonly llmMaxShare: string;
  },
  problems: string[],
): CoordinatorConfig['inference'] {
  try {
    const { openAiApiKey: _, ...inference } = gatewayConfigFromEnvironment({
      OLLAMA_BASE_URL: values.ollamaBaseUrl,
      OPENAI_API_ENDPOINT: values.openAiEndpoint,
      LLM_BACKEND_TIMEOUT: values.llmBackendTimeout,
      LLM_MAX_SHARE: values.llmMaxShare,
    });
    return Object.freeze(inference);
  } catch (error) {
    problems.push(error instanceof OctomilError ? error.reason : String(error));
    return { ollamaBaseUrl: undefined, openAiEndpoint: undefined, timeoutMs: 0, maxShareRatio: 1 };
  }
}

function checkProxies(text: string | undefined, problems: string[]): void {
  for (const proxy of text?.split(',') ?? []) {
    const [address = '', prefix = '0'] = proxy.trim().split('/');
    if (/^(loopback|linklocal|uniquelocal)$/.test(proxy.trim())) continue;
    if (isIP(address) !== 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= (isIP(address) === 4 ? 32 : 128)) continue;
    problems.push(
      `OCTOMIL_TRUSTED_PROXIES has "${proxy.trim()}"; name addresses or networks such as 10.0.0.0/8, or loopback, linklocal, uniquelocal`,
    );
  }
}

/** The value is not shown: it may hold a password. */
function checkUrl(name: string, text: string | undefined, protocols: readonly string[], problems: string[]): void {
  if (text === undefined) return;
  if (!URL.canParse(text) || !protocols.includes(new URL(text).protocol)) {
    problems.push(`${name} must be a URL that begins with ${protocols.join(' or ')}//`);
  }
}
