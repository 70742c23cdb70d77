import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import type { InferenceCounters } from '../deployments/model-health.js';
import { writeAtomically } from '../state/atomic-file.js';

export interface LocalApiOptions {
  /** Where address and token are written (0600), for programs of the same user. */
  readonly path: string;
  readonly counters: InferenceCounters;
  /** @throws OctomilError `not_found` */
  readonly activate: (model: string) => void;
}

export interface LocalApi {
  readonly url: string;
  stop(): Promise<void>;
}

const MAX_BODY_BYTES = 262_144;
const MAX_REPORTS = 1_000;
/** A day: more is a mistake of the clock. */
const MAX_LATENCY_MS = 86_400_000;

const Id = Type.String({ minLength: 1, maxLength: 128 });
const ReportsSchema = Type.Object({
  reports: Type.Array(
    Type.Object({
      model_id: Id,
      version_id: Id,
      latency_ms: Type.Number({ minimum: 0, maximum: MAX_LATENCY_MS }),
      failed: Type.Optional(Type.Boolean()),
    }),
    { maxItems: MAX_REPORTS },
  ),
});
const ActivateSchema = Type.Object({ model: Type.String({ minLength: 1, maxLength: 1_000 }) });

/**
 * For programs on this machine that serve a deployed model: `POST /v1/inference-report` counts their answers,
 * `POST /v1/activate` lets a version go that waits to be activated by hand. On the loopback address alone, on a free
 * port, under a token that is new with every start.
 */
export async function startLocalApi({ path, counters, activate }: LocalApiOptions): Promise<LocalApi> {
  const token = `oal_${randomBytes(24).toString('base64url')}`;
  const server = createServer((request, response) => {
    const answer = (status: number, body: object): void => {
      const text = JSON.stringify(body);
      response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
      response.end(text);
    };
    handle(request).then(
      (body) => answer(200, body),
      (thrown: unknown) => {
        const error = toOctomilError(thrown);
        if (error.code === 'too_large') response.setHeader('connection', 'close');
        answer(error.entry.http, error.toBody());
      },
    );
  });

  const handle = async (request: IncomingMessage): Promise<object> => {
    if (!sameText(request.headers.authorization ?? '', `Bearer ${token}`)) {
      throw new OctomilError(
        'authentication_failed',
        'send the token of local-api.json in the state folder as a bearer token',
      );
    }
    const route = `${request.method} ${request.url}`;
    if (route === 'POST /v1/inference-report') {
      const { reports } = check(ReportsSchema, await readJson(request));
      let counted = 0;
      for (const { model_id: modelId, version_id: versionId, latency_ms: latencyMs, failed = false } of reports) {
        if (counters.record({ modelId, versionId, latencyMs, failed })) counted += 1;
      }
      return { counted, ignored: reports.length - counted };
    }
    if (route === 'POST /v1/activate') {
      activate(check(ActivateSchema, await readJson(request)).model);
      return { status: 'ok' };
    }
    throw new OctomilError('not_found', 'there are POST /v1/inference-report and POST /v1/activate');
  };

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  server.unref();
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await writeAtomically(path, `${JSON.stringify({ url, token }, null, 2)}\n`);
  return {
    url,
    stop: async () => {
      // The port may be another program's next.
      await rm(path, { force: true });
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}

function check<S extends typeof ReportsSchema | typeof ActivateSchema>(schema: S, value: unknown): Type.Static<S> {
  const [problem] = Value.Errors(schema, value);
  if (problem === undefined) return value as Type.Static<S>;
  const field = problem.instancePath.slice(1).replaceAll('/', '.') || 'the body';
  throw new OctomilError('invalid_input', `${field} ${problem.message}`, { details: { field } });
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of request) {
    sizeBytes += (chunk as Buffer).length;
    if (sizeBytes > MAX_BODY_BYTES) {
      throw new OctomilError(
        'too_large',
        `the body is larger than ${MAX_BODY_BYTES} bytes; send fewer reports at once`,
      );
    }
    chunks.push(chunk as Buffer);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown;
  } catch {
    throw new OctomilError('invalid_input', 'the body is not JSON');
  }
}

/** In a time that tells nothing of where they differ. */
function sameText(a: string, b: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(a), hash(b));
}
