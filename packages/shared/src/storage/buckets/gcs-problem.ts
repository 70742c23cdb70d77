import type { Dispatcher } from 'undici';
import { type Failure, networkProblem, problemOfStatus } from './bucket-problem.js';

/** Google's explanations are a few lines; more is not read. */
const MAX_EXPLANATION_BYTES = 64 * 1024;

/** What an error of the SDK, of the connection or of {@link refusalOf} says. */
export function gcsFailure(error: unknown): Failure {
  const { code, status, errors, message } = error as {
    code?: unknown;
    status?: unknown;
    errors?: readonly { reason?: string }[];
    message?: string;
  };
  const number = typeof code === 'number' ? code : typeof status === 'number' ? status : Number(code) || undefined;
  const reason = errors?.[0]?.reason;
  return { problem: gcsProblem(error, number, `${message ?? ''}`), providerCode: reason, status: number };
}

/** The error that the SDK would have made of an answer. */
export async function refusalOf({ statusCode, body }: Dispatcher.ResponseData): Promise<Error> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_EXPLANATION_BYTES) break;
    chunks.push(chunk);
  }
  try {
    const { error } = JSON.parse(Buffer.concat(chunks).toString()) as {
      error: { message?: string; errors?: readonly { reason?: string }[] };
    };
    return Object.assign(new Error(error.message), { code: statusCode, errors: error.errors });
  } catch {
    return Object.assign(new Error('no explanation came'), { code: statusCode });
  }
}

function gcsProblem(error: unknown, status: number | undefined, message: string): Failure['problem'] {
  if (/bucket does not exist|specified bucket/i.test(message) && status === 404) return 'missing_bucket';
  if (
    /Could not load the default credentials|no such file or directory.*json|Cannot sign data|client_email/i.test(
      message,
    )
  ) {
    return 'no_credentials';
  }
  if (/invalid_grant|invalid_rapt|reauth|token.*expired/i.test(message)) return 'expired_credentials';
  if (/invalid_client|unsupported.*PEM|DECODER|asn1/i.test(message)) return 'bad_credentials';
  const network = networkProblem(error);
  if (network !== undefined) return network;
  // A proxy that ends the connection has no code; where a token was asked for, it is the cause.
  for (const thrown of [error, (error as { cause?: unknown }).cause]) {
    const { name, type } = (thrown ?? {}) as { name?: unknown; type?: unknown };
    if (name === 'FetchError' && type === 'system') return 'unreachable';
  }
  return problemOfStatus(status) ?? 'refused';
}
