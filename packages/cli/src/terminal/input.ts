import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';

const MAX_BYTES = 16 * 1024 * 1024;

/**
 * What is piped in, whole.
 *
 * @param missing what to say to a person who forgot it
 * @throws OctomilError `invalid_input` where nothing is piped in, or bytes that are not UTF-8; `too_large` above 16 MiB
 */
export async function readInput(missing: string): Promise<string> {
  const { stdin } = process;
  if (stdin.isTTY) throw new OctomilError('invalid_input', missing);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stdin) {
    chunks.push(chunk as Buffer);
    size += (chunk as Buffer).length;
    if (size > MAX_BYTES) throw new OctomilError('too_large', `what is piped in is more than ${MAX_BYTES} bytes`);
  }
  if (size === 0) throw new OctomilError('invalid_input', missing);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
  } catch (cause) {
    throw new OctomilError('invalid_input', 'what is piped in is not UTF-8 text', { cause });
  }
}

/** @throws OctomilError `not_found` for a file that cannot be read, `invalid_input` for one that holds no JSON object */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new OctomilError('not_found', `${path} cannot be read (${(cause as { code?: string }).code})`, { cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new OctomilError('invalid_input', `${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new OctomilError('invalid_input', `${path} must hold a JSON object`);
}
