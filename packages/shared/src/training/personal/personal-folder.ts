import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { decodeWeights, encodeWeights, type NamedTensor, type TensorShape } from '@octomil/shared/tensors';
import type { Personalization } from './personalization.js';

/** Whose personal part it is, and in which round. */
export interface PersonalPlace {
  /** A folder of one federation, model, data set, method and architecture. */
  readonly path: string;
  readonly federation: string;
  readonly model: string;
  readonly dataSet: string;
  readonly sessionId: string;
  readonly roundNumber: number;
  /** What is kept beside it at most. Default: no limit, for whoever asks himself for what is kept. */
  readonly limit?: PersonalLimit;
}

/** Of all folders beside each other. */
export interface PersonalLimit {
  readonly parts: number;
  /** Of the current states; the ones before may take as much again. */
  readonly bytes: number;
  /** What to do once it is reached. */
  readonly advice: string;
}

/** What a kept part must be of to be used. */
export interface PersonalIdentity {
  readonly method: Personalization['method'];
  /** Of the architecture and of how columns become inputs, scaling aside. */
  readonly modelSha256: string;
  readonly tensors: readonly TensorShape[];
}

/** One state of a personal part. */
export interface PersonalState {
  /** Of its file, `<sha256>.safetensors`. */
  readonly sha256: string;
  readonly sessionId: string;
  readonly roundNumber: number;
  /** Rounds that it has been trained in. */
  readonly rounds: number;
}

/** `personal.json`. */
export interface PersonalRecord {
  readonly formatVersion: 1;
  readonly method: Personalization['method'];
  readonly federation: string;
  readonly model: string;
  readonly dataSet: string;
  readonly modelSha256: string;
  readonly current: PersonalState;
  /** What `current` was trained from, for a round that is done again; null: from the base. */
  readonly previous: PersonalState | null;
}

/** What is kept, or why it is not used. */
export type KeptPersonal =
  | { readonly state: PersonalState; readonly tensors: readonly NamedTensor[] }
  | { readonly state: undefined; readonly reason?: string };

const RECORD = 'personal.json';
/** Architecture and columns, as a version's `model.json`. */
export const DOCUMENT = 'model.json';

/** @throws OctomilError `corrupt_file` for a record that cannot be read; undefined where there is none */
export async function readPersonalRecord(path: string): Promise<PersonalRecord | undefined> {
  let text: string;
  try {
    text = await readFile(join(path, RECORD), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw damaged(error);
  }
  try {
    const record = JSON.parse(text) as PersonalRecord;
    if (record.formatVersion === 1 && isState(record.current)) return record;
  } catch {}
  throw damaged();
}

/** The tensors of a state. @throws OctomilError `corrupt_file` when they are lost, or not those that were kept */
export async function readPersonalTensors(path: string, { sha256 }: PersonalState): Promise<NamedTensor[]> {
  try {
    const bytes = await readFile(join(path, `${sha256}.safetensors`));
    if (digest(bytes) === sha256) return decodeWeights(bytes);
  } catch (error) {
    throw damaged(error);
  }
  throw damaged();
}

/**
 * What a training starts from. A round that is done again starts from what it started from the first time, so that its
 * update has the same bytes.
 *
 * @param place without a session and round: the newest
 */
export async function readKept(
  place: Pick<PersonalPlace, 'path'> & Partial<Pick<PersonalPlace, 'sessionId' | 'roundNumber'>>,
  identity: PersonalIdentity,
): Promise<KeptPersonal> {
  try {
    const record = await readPersonalRecord(place.path);
    if (record === undefined) return { state: undefined };
    const { current, previous, method, modelSha256 } = record;
    if (method !== identity.method || modelSha256 !== identity.modelSha256) return ofAnotherModel();
    const again = current.sessionId === place.sessionId && current.roundNumber === place.roundNumber;
    const state = again ? previous : current;
    if (state === null) return { state: undefined };
    const tensors = await readPersonalTensors(place.path, state);
    return sameTensors(tensors, identity.tensors) ? { state, tensors } : ofAnotherModel();
  } catch (error) {
    return { state: undefined, reason: toOctomilError(error).reason };
  }
}

/**
 * Refuses a further part beyond the limit: whoever asks for training names models and architectures as he likes, and what
 * is kept is removed by the site alone. Parts that there are may go on.
 *
 * @throws OctomilError `insufficient_storage`
 */
export async function requireRoom({ path, limit }: Pick<PersonalPlace, 'path' | 'limit'>): Promise<void> {
  if (limit === undefined) return;
  const kept = await listPersonal(dirname(path));
  if (kept.some(({ id }) => id === basename(path))) return;
  const bytes = kept.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (kept.length < limit.parts && bytes < limit.bytes) return;
  const [has, most] =
    kept.length < limit.parts
      ? [`${bytes} bytes of personal parts`, `${limit.bytes} bytes`]
      : [`${kept.length} personal parts`, limit.parts];
  throw new OctomilError(
    'insufficient_storage',
    `this site keeps ${has} of models, and ${most} are the most; ${limit.advice}`,
    { details: { parts: kept.length, bytes, limitParts: limit.parts, limitBytes: limit.bytes } },
  );
}

/**
 * Keeps a new state: weights first, then the record that names them, each written whole or not at all, for the owner alone.
 *
 * @param document `model.json`, so that the folder explains itself
 * @throws OctomilError `insufficient_storage`
 */
export async function keepPersonal(
  place: PersonalPlace,
  identity: PersonalIdentity,
  started: PersonalState | undefined,
  tensors: readonly NamedTensor[],
  document: Uint8Array,
): Promise<void> {
  const { path, federation, model, dataSet, sessionId, roundNumber } = place;
  const bytes = encodeWeights(tensors);
  const sha256 = digest(bytes);
  const record: PersonalRecord = {
    formatVersion: 1,
    method: identity.method,
    ...{ federation, model, dataSet },
    modelSha256: identity.modelSha256,
    current: { sha256, sessionId, roundNumber, rounds: (started?.rounds ?? 0) + 1 },
    previous: started ?? null,
  };
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    await writeWhole(join(path, `${sha256}.safetensors`), bytes);
    await writeWhole(join(path, DOCUMENT), document);
    await writeWhole(join(path, RECORD), JSON.stringify(record, null, 2));
    const kept = new Set([RECORD, DOCUMENT, `${sha256}.safetensors`, `${started?.sha256}.safetensors`]);
    for (const name of await readdir(path)) if (!kept.has(name)) await rm(join(path, name), { force: true });
  } catch (error) {
    throw new OctomilError(
      'insufficient_storage',
      `the personal part of the model cannot be kept in the state folder (${(error as NodeJS.ErrnoException).code}); make room`,
      { cause: error },
    );
  }
}

/** One personal model of a site, for its people. */
export interface PersonalListing {
  /** Its folder's name. */
  readonly id: string;
  readonly path: string;
  /** Undefined where the record is damaged. */
  readonly record: PersonalRecord | undefined;
  readonly keptAt: string;
  readonly sizeBytes: number;
}

/** Those under a folder, by federation and model. */
export async function listPersonal(folder: string): Promise<PersonalListing[]> {
  const names = await readdir(folder).catch(() => []);
  const found: PersonalListing[] = [];
  for (const id of names) {
    const path = join(folder, id);
    const file = await stat(join(path, RECORD)).catch(() => undefined);
    if (file === undefined) continue;
    const record = await readPersonalRecord(path).catch(() => undefined);
    const weights = await stat(join(path, `${record?.current.sha256}.safetensors`)).catch(() => undefined);
    found.push({ id, path, record, keptAt: file.mtime.toISOString(), sizeBytes: weights?.size ?? 0 });
  }
  const key = ({ id, record }: PersonalListing) => `${record?.federation}\n${record?.model}\n${id}`;
  return found.sort((left, right) => (key(left) < key(right) ? -1 : 1));
}

/**
 * Forgets one. The next round starts from its base.
 *
 * @throws OctomilError `not_found` naming those that there are
 */
export async function removePersonal(folder: string, id: string): Promise<void> {
  const known = (await listPersonal(folder)).map((one) => one.id);
  if (!known.includes(id)) {
    throw new OctomilError('not_found', `there is no personal model "${id}"; there are ${known.join(', ') || 'none'}`);
  }
  await rm(join(folder, id), { recursive: true, force: true });
}

function sameTensors(tensors: readonly NamedTensor[], wanted: readonly TensorShape[]): boolean {
  const text = (list: readonly TensorShape[]): string =>
    JSON.stringify(list.map(({ name, shape }) => `${name}[${shape.join()}]`).sort());
  return text(tensors) === text(wanted) && tensors.every(({ data }) => data.every(Number.isFinite));
}

async function writeWhole(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = `${path}.${randomUUID()}.part`;
  const file = await open(temporary, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close().catch(() => undefined);
    await rm(temporary, { force: true });
    throw error;
  }
}

const isState = (state: unknown): boolean =>
  typeof state === 'object' && state !== null && 'sha256' in state && /^[0-9a-f]{64}$/.test(String(state.sha256));

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const ofAnotherModel = (): KeptPersonal => ({
  state: undefined,
  reason: 'what was kept is of another architecture, head or set of columns',
});

const damaged = (cause?: unknown): OctomilError =>
  new OctomilError('corrupt_file', 'what was kept is damaged or lost', { cause });
