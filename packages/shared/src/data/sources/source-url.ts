import { homedir } from 'node:os';
import { resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import { type BucketAddress, describeBucket, isAzureHost, parseBucketUrl } from '@octomil/shared/storage';
import { isGlob, parseGlob } from './glob.js';

export type SourcePlace =
  | { readonly kind: 'file' }
  | { readonly kind: 'bucket'; readonly address: BucketAddress }
  | { readonly kind: 'web' };

/** Where data lies: one object, all below a prefix, or all that match a pattern. */
export interface SourceUrl {
  readonly place: SourcePlace;
  readonly selects: 'object' | 'prefix' | 'glob';
  /** Key in the bucket; absolute path; whole URL on the web, which may hold a signature and is then a secret. */
  readonly key: string;
  /** As it may be shown and logged: without signatures. */
  readonly display: string;
}

const FORMS =
  'a path, file:, s3://BUCKET/KEY, gs://BUCKET/OBJECT, az://CONTAINER/BLOB, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, https://ACCOUNT.blob.core.windows.net/CONTAINER/BLOB or https://';
const MAX_LENGTH = 8192;

/**
 * Reads where data lies. One form for each provider, the same in the agent's configuration, the SDK and the command line:
 * a path or `file:`, `s3://`, `gs://`, `az://`, `abfss://`, Azure's `https://` URLs, and any other `https://` URL.
 * A slash at the end means everything below; `*`, `**`, `?` and `[…]` make a pattern (not in URLs of the web).
 *
 * @throws OctomilError `invalid_input` saying which part is wrong; a signature or password is never quoted
 */
export function parseSourceUrl(text: string): SourceUrl {
  if (text.trim() === '') throw new OctomilError('invalid_input', `the data source is empty; write ${FORMS}`);
  if (text.length > MAX_LENGTH) {
    throw new OctomilError(
      'invalid_input',
      `the data source has ${text.length} characters, more than the ${MAX_LENGTH} allowed`,
    );
  }
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]+):/.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) return fileSource(text, text);
  if (scheme === 'file') return fileSource(pathOfFileUrl(text), text);
  const bucket = parseBucketUrl(text);
  if (bucket !== undefined) {
    const { address, key } = bucket;
    const where = describeBucket(address);
    const selects = selectsOf(key);
    return { place: { kind: 'bucket', address }, selects, key, display: `${where}${key}` };
  }
  if (scheme === 'https' || scheme === 'http') return webSource(text);
  // A path may hold a colon; a scheme is followed by slashes.
  if (!text.slice(scheme.length + 1).startsWith('//')) return fileSource(text, text);
  throw new OctomilError('invalid_input', `data cannot be read from ${scheme}: URLs; write ${FORMS}`);
}

function selectsOf(key: string): SourceUrl['selects'] {
  if (isGlob(key)) {
    parseGlob(key);
    return 'glob';
  }
  return key === '' || key.endsWith('/') ? 'prefix' : 'object';
}

function fileSource(path: string, display: string): SourceUrl {
  if (path.includes('\0')) throw new OctomilError('invalid_input', 'the path of the data source holds a zero byte');
  const expanded = path === '~' || path.startsWith('~/') ? homedir() + path.slice(1) : path;
  const ending = /[/\\]$/.test(path) ? '/' : '';
  const key = resolve(expanded).split(sep).join('/') + ending;
  return { place: { kind: 'file' }, selects: selectsOf(key), key, display };
}

function pathOfFileUrl(text: string): string {
  // `file:relative` is taken from the working directory, `file:///absolute` as URLs have it.
  if (!text.startsWith('file:/')) return text.slice('file:'.length);
  try {
    // Patterns survive: only `?` and `#` mean something else in a URL.
    return fileURLToPath(text.replaceAll('?', '%3F').replaceAll('#', '%23'));
  } catch (cause) {
    throw new OctomilError('invalid_input', 'the file: URL names no path of this machine; write file:///FOLDER/FILE', {
      cause,
    });
  }
}

function webSource(text: string): SourceUrl {
  if (!URL.canParse(text)) throw new OctomilError('invalid_input', 'the https URL is not valid; check its host');
  const url = new URL(text);
  if (url.username !== '' || url.password !== '') {
    throw new OctomilError('invalid_input', `the URL of ${url.host} holds a user name or password; use a signed URL`);
  }
  const loopback = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/.test(url.hostname);
  if (url.protocol === 'http:' && !loopback) {
    throw new OctomilError('invalid_input', `data of ${url.host} would travel in plaintext; use https:`);
  }
  if (isAzureHost(url.hostname)) {
    throw new OctomilError('invalid_input', `${url.host} is Azure's: use https and its usual port`);
  }
  if (url.pathname.endsWith('/')) {
    throw new OctomilError(
      'invalid_input',
      `${url.origin}${url.pathname} names a folder, which https cannot list; name one file`,
    );
  }
  url.hash = '';
  return { place: { kind: 'web' }, selects: 'object', key: url.href, display: `${url.origin}${url.pathname}` };
}
