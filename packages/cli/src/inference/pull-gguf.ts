import { createHash } from 'node:crypto';
import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ModelRegistry } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';
import { connection } from '../access/connect.js';
import { transferBar } from '../terminal/transfer-bar.js';
import { writeAtomically } from '../terminal/write-file.js';
import { homeFolder } from './home-folder.js';

/** The GGUF file of a version, as the registry knows it. */
interface KnownFile {
  readonly version: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

/**
 * The GGUF file of a version in the registry: pulled once, checked against its digest, and kept under it in
 * `OCTOMIL_CACHE_DIR` (default `~/.octomil/cache`). While the coordinator cannot be reached, what it said last holds.
 *
 * @param model `name`, for the newest published version, or `name:version`
 * @returns the path of the file
 * @throws OctomilError, OctomilClientError `invalid_api_key`, `model_not_found`, `version_not_found`, `format_not_ready` for a
 * version without such a file, `checksum_mismatch`, `insufficient_storage`, `network_unavailable`, `cancelled`
 */
export async function pullGguf(model: string, signal: AbortSignal): Promise<string> {
  const access = await connection();
  const folder = join(process.env['OCTOMIL_CACHE_DIR'] || join(homeFolder(), 'cache'), 'models');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  // What one coordinator calls by a name is no other's model.
  const noteName = createHash('sha256')
    .update(JSON.stringify([access.apiBase, model]))
    .digest('hex');
  const notePath = join(folder, `${noteName}.json`);
  const note = await readNote(notePath);
  const before = note !== undefined && (await isThere(pathOf(folder, note), note)) ? note : undefined;
  // Nobody waits long for what can be done without.
  const registry = new ModelRegistry({ ...access, ...(before === undefined ? {} : { maxAttempts: 1 }) });
  const { id, version } = splitName(model);
  const known = await ask(registry, id, version, signal).catch((error: unknown) => {
    if (before === undefined || (error as { code?: unknown }).code !== 'network_unavailable') throw error;
    process.stderr.write(`The registry cannot be reached; using ${model} ${before.version}, which is here.\n`);
    return before;
  });
  const path = pathOf(folder, known);
  if (!(await isThere(path, known))) await pull(registry, { id, known, path, signal });
  await writeAtomically(notePath, `${JSON.stringify(known)}\n`, 0o600);
  return path;
}

/** `phi-4-mini:1.0.0` is the version 1.0.0 of phi-4-mini. */
function splitName(model: string): { readonly id: string; readonly version: string } {
  const [, id, version] = /^(.+):(latest|\d[\w.+-]*)$/.exec(model) ?? [];
  return id === undefined || version === undefined ? { id: model, version: 'latest' } : { id, version };
}

async function ask(registry: ModelRegistry, id: string, version: string, signal: AbortSignal): Promise<KnownFile> {
  const found = await registry.version(id, version, signal);
  const artifacts = Array.isArray(found['artifacts']) ? (found['artifacts'] as Record<string, unknown>[]) : [];
  const gguf = artifacts.find(({ format }) => format === 'gguf');
  const sha256 = String(gguf?.['sha256'] ?? '').replace(/^sha256:/, '');
  if (/^[0-9a-f]{64}$/.test(sha256)) {
    return { version: found.version, sha256, sizeBytes: Number(gguf?.['size_bytes']) };
  }
  const formats = artifacts.map(({ format }) => String(format)).join(', ');
  throw new OctomilError(
    'format_not_ready',
    `${id} ${found.version} has no GGUF file, which is what generates text; it has ${formats || 'no file'}`,
  );
}

async function pull(
  registry: ModelRegistry,
  file: { readonly id: string; readonly known: KnownFile; readonly path: string; readonly signal: AbortSignal },
): Promise<void> {
  const { id, known, path, signal } = file;
  const bar = transferBar(id);
  try {
    const options = { model: id, version: known.version, format: 'gguf', path, signal, onProgress: bar.show };
    const { digest } = await registry.pullModelToPath(options);
    if (digest === known.sha256) return;
    await rm(path, { force: true });
    throw new OctomilError('checksum_mismatch', `${id} ${known.version} arrived with SHA-256 ${digest}; try it again`);
  } catch (error) {
    // Another command may have pulled it meanwhile.
    if ((error as { code?: unknown }).code === 'checksum_mismatch' || !(await isThere(path, known))) throw error;
  } finally {
    bar.end();
  }
}

function pathOf(folder: string, { sha256 }: KnownFile): string {
  return join(folder, `${sha256}.gguf`);
}

/** It was checked before it got its name. */
async function isThere(path: string, { sizeBytes }: KnownFile): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.size === sizeBytes;
}

async function readNote(path: string): Promise<KnownFile | undefined> {
  try {
    const { version, sha256, sizeBytes } = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
    const isWhole = typeof version === 'string' && typeof sizeBytes === 'number';
    if (isWhole && /^[0-9a-f]{64}$/.test(String(sha256))) return { version, sha256: String(sha256), sizeBytes };
  } catch {
    // As if there were none.
  }
  return undefined;
}
