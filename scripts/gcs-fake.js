// A small server that speaks as much of Google Cloud Storage's JSON API as Octomil uses, for machines without Go, where
// fake-gcs-server cannot be built. Objects are in memory. Unlike that server it answers a question about a resumable
// session without ending it, ends sessions on DELETE, and refuses signed URLs past their end; like it, it checks no
// signature and asks for no credentials.
//
//   node scripts/gcs-fake.js PORT
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

/** By bucket: objects by name. */
const buckets = new Map();
const sessions = new Map();
let generations = 1_700_000_000_000_000;

const CRC32C = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

/** As Google says it: big-endian, base64. */
function crc32c(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC32C[(value ^ byte) & 255] ^ (value >>> 8);
  const digest = Buffer.alloc(4);
  digest.writeUInt32BE((value ^ 0xffffffff) >>> 0);
  return digest.toString('base64');
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function answer(response, status, body, headers = {}) {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(body === undefined ? '' : JSON.stringify(body));
  const type = Buffer.isBuffer(body) ? 'application/octet-stream' : 'application/json';
  response.writeHead(status, { 'content-type': type, 'content-length': bytes.length, ...headers });
  response.end(bytes);
}

function refuse(response, code, reason, message) {
  answer(response, code, { error: { code, message, errors: [{ reason, message }] } });
}

function metadataOf(bucket, name, { bytes, generation, updated, contentType, checksum }) {
  return {
    kind: 'storage#object',
    bucket,
    name,
    size: String(bytes.length),
    generation: String(generation),
    metageneration: '1',
    updated,
    timeCreated: updated,
    contentType,
    crc32c: checksum,
    etag: String(generation),
  };
}

function keep(bucket, name, bytes, contentType = 'application/octet-stream') {
  generations += 1;
  const object = {
    bytes,
    contentType,
    generation: generations,
    updated: new Date().toISOString(),
    checksum: crc32c(bytes),
  };
  buckets.get(bucket).set(name, object);
  return metadataOf(bucket, name, object);
}

function sendBytes(request, response, object, disposition = null) {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const size = object.bytes.length;
  const headers = {
    'x-goog-generation': String(object.generation),
    'accept-ranges': 'bytes',
    ...(disposition === null ? {} : { 'content-disposition': disposition }),
  };
  if (range === null) return answer(response, 200, object.bytes, headers);
  const start = Number(range[1]);
  const last = Math.min(range[2] === '' ? size - 1 : Number(range[2]), size - 1);
  if (start >= size) {
    return answer(response, 416, { error: { code: 416 } }, { 'content-range': `bytes */${size}` });
  }
  const part = Buffer.from(object.bytes.subarray(start, last + 1));
  return answer(response, 206, part, { ...headers, 'content-range': `bytes ${start}-${last}/${size}` });
}

/** The two halves of a multipart/related body: metadata, then bytes. */
function relatedParts(body, boundary) {
  const mark = Buffer.from(`--${boundary}`);
  const pieces = [];
  for (let at = body.indexOf(mark); at !== -1; ) {
    const next = body.indexOf(mark, at + mark.length);
    if (next === -1) break;
    const piece = body.subarray(at + mark.length, next);
    const head = piece.indexOf('\r\n\r\n');
    pieces.push(piece.subarray(head + 4, piece.length - 2));
    at = next;
  }
  return pieces;
}

async function upload(request, response, url, bucket) {
  const name = url.searchParams.get('name');
  const body = await bodyOf(request);
  switch (url.searchParams.get('uploadType')) {
    case 'multipart': {
      const boundary = /boundary="?([^";]+)/.exec(request.headers['content-type'] ?? '')?.[1];
      const [metadata, bytes] = relatedParts(body, boundary);
      const fields = JSON.parse(metadata.toString());
      return answer(response, 200, keep(bucket, name ?? fields.name, Buffer.from(bytes), fields.contentType));
    }
    case 'resumable': {
      const id = randomUUID();
      const fields = body.length === 0 ? {} : JSON.parse(body.toString());
      sessions.set(id, { bucket, name: name ?? fields.name, bytes: Buffer.alloc(0), contentType: fields.contentType });
      return answer(response, 200, undefined, {
        location: `http://${request.headers.host}${url.pathname}?upload_id=${id}`,
      });
    }
    default:
      return answer(response, 200, keep(bucket, name, body, request.headers['content-type']));
  }
}

/** https://cloud.google.com/storage/docs/performing-resumable-uploads */
async function session(request, response, id) {
  const known = sessions.get(id);
  const body = await bodyOf(request);
  if (known === undefined) return refuse(response, 404, 'notFound', 'No such upload session');
  if (request.method === 'DELETE') {
    sessions.delete(id);
    return answer(response, 499, undefined);
  }
  if (known.made !== undefined) return answer(response, 200, known.made);
  const [, first, last, total] =
    /^bytes (?:(\d+)-(\d+)|\*)\/(\d+|\*)$/.exec(request.headers['content-range'] ?? '') ?? [];
  if (first !== undefined) {
    if (Number(last) - Number(first) + 1 !== body.length)
      return refuse(response, 400, 'invalid', 'Content-Range and body differ');
    if (Number(first) > known.bytes.length) return refuse(response, 503, 'gap', 'Chunks must come in order');
    known.bytes = Buffer.concat([known.bytes.subarray(0, Number(first)), body]);
  }
  if (total !== undefined && total !== '*' && known.bytes.length === Number(total)) {
    known.made = keep(known.bucket, known.name, known.bytes, known.contentType);
    known.bytes = Buffer.alloc(0);
    return answer(response, 200, known.made);
  }
  const range = known.bytes.length === 0 ? {} : { range: `bytes=0-${known.bytes.length - 1}` };
  return answer(response, 308, undefined, range);
}

function list(response, url, bucket) {
  const prefix = url.searchParams.get('prefix') ?? '';
  const after = url.searchParams.get('pageToken') ?? '';
  const most = Number(url.searchParams.get('maxResults') ?? 1000);
  const objects = buckets.get(bucket);
  const names = [...objects.keys()].filter((name) => name.startsWith(prefix) && (after === '' || name > after)).sort();
  const page = names.slice(0, most);
  const items = page.map((name) => metadataOf(bucket, name, objects.get(name)));
  answer(response, 200, { items, ...(names.length > most ? { nextPageToken: page.at(-1) } : {}) });
}

function signed(request, response, url) {
  const [, bucket, ...words] = url.pathname.split('/').map(decodeURIComponent);
  const date = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(url.searchParams.get('X-Goog-Date') ?? '');
  const seconds = Number(url.searchParams.get('X-Goog-Expires') ?? Number.NaN);
  if (date === null || Number.isNaN(seconds)) return refuse(response, 403, 'forbidden', 'Anonymous caller');
  const [, year, month, day, hour, minute, second] = date.map(Number);
  if (Date.UTC(year, month - 1, day, hour, minute, second) + seconds * 1000 < Date.now()) {
    return answer(response, 400, Buffer.from('<Error><Code>ExpiredToken</Code></Error>'));
  }
  const object = buckets.get(bucket)?.get(words.join('/'));
  if (object === undefined) return answer(response, 404, Buffer.from('<Error><Code>NoSuchKey</Code></Error>'));
  return sendBytes(request, response, object, url.searchParams.get('response-content-disposition'));
}

async function handle(request, response) {
  const url = new URL(request.url, 'http://fake');
  if (url.pathname === '/storage/v1/b' && request.method === 'POST') {
    const { name } = JSON.parse((await bodyOf(request)).toString());
    if (!buckets.has(name)) buckets.set(name, new Map());
    return answer(response, 200, { kind: 'storage#bucket', name });
  }
  const place = /^(\/upload)?\/storage\/v1\/b\/([^/]+)\/o(?:\/(.+))?$/.exec(url.pathname);
  if (place === null) return signed(request, response, url);
  const [, uploading, bucketText, nameText] = place;
  const uploadId = url.searchParams.get('upload_id');
  if (uploadId !== null) return session(request, response, uploadId);
  const bucket = decodeURIComponent(bucketText);
  const objects = buckets.get(bucket);
  if (objects === undefined) return refuse(response, 404, 'notFound', 'The specified bucket does not exist.');
  if (uploading !== undefined) return upload(request, response, url, bucket);
  if (nameText === undefined) return list(response, url, bucket);
  const name = decodeURIComponent(nameText);
  const object = objects.get(name);
  const generation = url.searchParams.get('generation');
  if (object === undefined || (generation !== null && generation !== String(object.generation))) {
    return refuse(response, 404, 'notFound', `No such object: ${bucket}/${name}`);
  }
  if (request.method === 'DELETE') {
    objects.delete(name);
    return answer(response, 204, undefined);
  }
  if (url.searchParams.get('alt') === 'media') return sendBytes(request, response, object);
  return answer(response, 200, metadataOf(bucket, name, object));
}

createServer((request, response) => {
  handle(request, response).catch((error) => {
    if (!response.headersSent) refuse(response, 500, 'internal', error.message);
  });
}).listen(Number(process.argv[2]), '127.0.0.1');
