import { OctomilError } from '../../errors/index.js';

/** A bucket or container, without the key. */
export type BucketAddress =
  | { readonly provider: 's3'; readonly bucket: string }
  | { readonly provider: 'gs'; readonly bucket: string }
  | {
      readonly provider: 'az';
      readonly container: string;
      /** Default: the account of the credentials. */
      readonly account?: string;
      /** Domain of the cloud, such as `core.windows.net`. */
      readonly domain?: string;
      /** Shared access signature of the URL, without `?`. A secret. */
      readonly sas?: string;
    };

export interface BucketLocation {
  readonly address: BucketAddress;
  /** Key, prefix or pattern; may be empty. */
  readonly key: string;
}

const S3_BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/;
const GCS_BUCKET = /^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$/;
const AZURE_CONTAINER = /^(?:\$root|\$web|\$logs|[a-z0-9](?:-?[a-z0-9]){2,62})$/;
const AZURE_HOST =
  /^([a-z0-9]{3,24})\.(?:blob|dfs)\.((?:core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)))$/;
const MAX_KEY_BYTES = 1024;

/** Whether a URL of this host is Azure's. */
export function isAzureHost(host: string): boolean {
  return AZURE_HOST.test(host);
}

/**
 * Reads `s3://bucket/key`, `gs://bucket/object`, `az://container/blob`, `abfss://container@account.dfs.core.windows.net/path`
 * and `https://account.blob.core.windows.net/container/blob`. The key is taken as it stands; in an https URL it is
 * percent-encoded, and the query may hold a shared access signature.
 *
 * @returns undefined for another scheme
 * @throws OctomilError `invalid_input` naming the part that is wrong, never a signature
 */
export function parseBucketUrl(text: string): BucketLocation | undefined {
  const [, rawScheme, rest = ''] = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/(.*)$/s.exec(text) ?? [];
  const scheme = rawScheme?.toLowerCase();
  if (scheme === 'https') return parseAzureHttps(text);
  if (scheme !== 's3' && scheme !== 'gs' && scheme !== 'az' && scheme !== 'abfss' && scheme !== 'abfs')
    return undefined;
  const slash = rest.indexOf('/');
  const host = slash < 0 ? rest : rest.slice(0, slash);
  const key = slash < 0 ? '' : rest.slice(slash + 1);
  checkKey(key, scheme);
  switch (scheme) {
    case 's3':
      requireName(S3_BUCKET, host, 's3://BUCKET/KEY', 'bucket');
      return { address: { provider: 's3', bucket: host }, key };
    case 'gs':
      requireName(GCS_BUCKET, host, 'gs://BUCKET/OBJECT', 'bucket');
      return { address: { provider: 'gs', bucket: host }, key };
    case 'az':
      requireName(AZURE_CONTAINER, host, 'az://CONTAINER/BLOB', 'container');
      return { address: { provider: 'az', container: host }, key };
    case 'abfs':
    case 'abfss': {
      const form = 'abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH';
      const [container = '', account = '', ...more] = host.split('@');
      const [, name, domain] = AZURE_HOST.exec(account.toLowerCase()) ?? [];
      if (name === undefined || domain === undefined || more.length > 0) {
        throw wrong(`${scheme}://${safe(host)}`, `the host is not CONTAINER@ACCOUNT.dfs.core.windows.net`, form);
      }
      requireName(AZURE_CONTAINER, container, form, 'container');
      return { address: { provider: 'az', container, account: name, domain }, key };
    }
  }
}

function parseAzureHttps(text: string): BucketLocation | undefined {
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  const [, account, domain] = AZURE_HOST.exec(url.hostname) ?? [];
  if (account === undefined || domain === undefined || url.port !== '') return undefined;
  const form = 'https://ACCOUNT.blob.core.windows.net/CONTAINER/BLOB';
  if (url.username !== '' || url.password !== '') throw wrong(url.host, 'it has a user name or password', form);
  // Blob names may hold what URLs escape; a stray % is taken as it stands.
  const path = decodePath(url.pathname.slice(1));
  const slash = path.indexOf('/');
  const container = slash < 0 ? path : path.slice(0, slash);
  const key = slash < 0 ? '' : path.slice(slash + 1);
  requireName(AZURE_CONTAINER, container, form, 'container');
  checkKey(key, 'https');
  const sas = url.search.slice(1);
  return { address: { provider: 'az', container, account, domain, ...(sas === '' ? {} : { sas }) }, key };
}

function decodePath(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** The bucket as a URL that may be shown and logged, ending in a slash. */
export function describeBucket(address: BucketAddress): string {
  if (address.provider !== 'az') return `${address.provider}://${address.bucket}/`;
  return address.account === undefined
    ? `az://${address.container}/`
    : `https://${address.account}.blob.${address.domain ?? 'core.windows.net'}/${address.container}/`;
}

function requireName(pattern: RegExp, name: string, form: string, what: string): void {
  if (pattern.test(name)) return;
  const why = name === '' ? `the ${what} is missing` : `"${safe(name)}" is no name of a ${what}`;
  throw wrong(form.split('://')[0] ?? '', why, form);
}

function checkKey(key: string, scheme: string): void {
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) {
    throw wrong(
      scheme,
      `the key has ${Buffer.byteLength(key)} bytes, more than the ${MAX_KEY_BYTES} that stores allow`,
    );
  }
  if (/\p{Cc}/u.test(key)) throw wrong(scheme, 'the key holds a control character');
}

function wrong(what: string, why: string, form?: string): OctomilError {
  return new OctomilError(
    'invalid_input',
    `the ${what} URL is not valid: ${why}${form === undefined ? '' : `; write ${form}`}`,
  );
}

/** Enough of it to be recognised. What looks like a password is left out. */
function safe(text: string): string {
  return text.replace(/^.*:[^@]*@/, '').slice(0, 80);
}
