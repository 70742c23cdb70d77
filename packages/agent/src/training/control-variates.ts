import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Assignment } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { readLayout } from '@octomil/shared/tensors';
import type { ControlVariateFiles } from '@octomil/shared/training';
import type { BaseStore } from '../models/base-store.js';
import { type AssignmentKey, keyText } from '../state/journal.js';
import type { TaskJson } from './task.js';

/** What SCAFFOLD's round needs beside the base, and what becomes of what it makes. */
export interface HeldControlVariates {
  readonly files: ControlVariateFiles;
  /** The coordinator counts on a control variate of this site that is not here any more; training begins with zeros. */
  readonly lost: boolean;
  /** Keeps the new one under the update that tells its change. */
  keep(updateSha256: string): Promise<void>;
  release(): void;
}

export interface ControlVariatesOptions {
  /** One folder per session, made when needed. */
  readonly folder: string;
  readonly bases: Pick<BaseStore, 'hold' | 'drop'>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A session that did not ask this site for so long has none of its control variates here. */
const KEPT_MS = 30 * 86_400_000;
/**
 * Sessions at most, and files of one: the coordinator names sessions as it likes. The oldest go, which makes their sessions
 * start over. A session has one open assignment, so that its file in use is among the newest.
 */
const MAX_SESSIONS = 32;
const MAX_FILES = 8;
const DIGEST = /^[0-9a-f]{64}$/;

/**
 * This site's control variates, one for each update that was made and may count. Which of them does, only the coordinator
 * knows: a verdict may be lost, and a round whose update was accepted may still fail. So each is kept under its update's
 * digest, and the next assignment names the one to go on from; the others are removed then.
 */
export class ControlVariates {
  readonly #options: ControlVariatesOptions;
  /** The server's of each session, which later rounds do not ask for again. */
  readonly #serverOf = new Map<string, string>();

  constructor(options: ControlVariatesOptions) {
    this.#options = options;
  }

  /**
   * @returns `undefined` for a task without control variates
   * @throws OctomilError `invalid_input` for a task that cannot be; as `BaseStore.hold`
   */
  async hold(
    assignment: Assignment,
    json: TaskJson,
    key: AssignmentKey,
    signal: AbortSignal,
  ): Promise<HeldControlVariates | undefined> {
    const wanted = assignment.kind === 'train' ? parse(json['controlVariates']) : undefined;
    if (wanted === undefined) return undefined;
    const { bases, logger } = this.#options;
    const { sessionId } = assignment;
    const folder = await this.#folderOf(sessionId);
    const own = wanted.ofUpdate === undefined ? undefined : join(folder, fileOf(wanted.ofUpdate));
    await this.#dropOthers(folder, wanted.ofUpdate);
    const lost = own !== undefined && !(await isWhole(own));
    if (lost) logger.warn({ ...key, path: own }, 'the control variate of an earlier round is lost; all start over');
    await this.#dropSuperseded(sessionId, wanted.server?.sha256);
    const held = wanted.server === undefined ? undefined : await bases.hold(wanted.server, signal);
    const ownOutputPath = join(folder, `${keyText(key)}.made`);
    return {
      files: {
        ...(held === undefined ? {} : { serverPath: held.path }),
        ...(own === undefined || lost ? {} : { ownPath: own }),
        ownOutputPath,
      },
      lost,
      keep: async (updateSha256) => {
        await rename(ownOutputPath, join(folder, fileOf(updateSha256)));
        await this.#dropOldest(folder, MAX_FILES);
      },
      release: () => held?.release(),
    };
  }

  async #folderOf(sessionId: string): Promise<string> {
    if (!/^[\w-]{1,128}$/.test(sessionId)) {
      throw new OctomilError('invalid_input', `"${sessionId.slice(0, 200)}" is no id of a session`);
    }
    const { folder, clock } = this.#options;
    const path = join(folder, sessionId);
    if ((await mkdir(path, { recursive: true, mode: 0o700 })) !== undefined) {
      await this.#dropOldest(folder, MAX_SESSIONS, clock.now() - KEPT_MS, sessionId);
    }
    return path;
  }

  /** Removes what is in a folder beyond so many, or was used before a time; the longest unused first. */
  async #dropOldest(folder: string, keep: number, sinceMs = 0, except?: string): Promise<void> {
    const found = await Promise.all(
      (await readdir(folder)).map(async (name) => {
        const usedAtMs = (await stat(join(folder, name)).catch(() => undefined))?.mtimeMs ?? 0;
        return { name, usedAtMs: name === except ? Number.POSITIVE_INFINITY : usedAtMs };
      }),
    );
    found.sort((left, right) => right.usedAtMs - left.usedAtMs);
    for (const [place, { name, usedAtMs }] of found.entries()) {
      if (place >= keep || usedAtMs < sinceMs) await rm(join(folder, name), { recursive: true, force: true });
    }
  }

  async #dropOthers(folder: string, ofUpdate: string | undefined): Promise<void> {
    for (const name of await readdir(folder)) {
      if (ofUpdate === undefined || name !== fileOf(ofUpdate)) await rm(join(folder, name), { force: true });
    }
  }

  async #dropSuperseded(sessionId: string, sha256: string | undefined): Promise<void> {
    const before = this.#serverOf.get(sessionId);
    if (sha256 !== undefined) this.#serverOf.set(sessionId, sha256);
    if (before !== undefined && before !== sha256) await this.#options.bases.drop(before);
  }
}

function fileOf(updateSha256: string): string {
  return `${updateSha256}.safetensors`;
}

async function isWhole(path: string): Promise<boolean> {
  return readLayout(path).then(
    () => true,
    () => false,
  );
}

interface Wanted {
  readonly server: { readonly sha256: string; readonly sizeBytes: number } | undefined;
  /** The update whose control variate the coordinator counts on. */
  readonly ofUpdate: string | undefined;
}

function parse(value: unknown): Wanted | undefined {
  if (value === undefined || value === null) return undefined;
  const { server, ofUpdate } = Object(value) as {
    server?: { sha256?: unknown; sizeBytes?: unknown };
    ofUpdate?: unknown;
  };
  const isDigest = (text: unknown): text is string => typeof text === 'string' && DIGEST.test(text);
  if (ofUpdate !== undefined && !isDigest(ofUpdate)) throw wrong('ofUpdate');
  if (server === undefined) return { server: undefined, ofUpdate };
  const { sha256, sizeBytes } = Object(server) as { sha256?: unknown; sizeBytes?: unknown };
  if (!isDigest(sha256) || typeof sizeBytes !== 'number' || !Number.isSafeInteger(sizeBytes)) throw wrong('server');
  return { server: { sha256, sizeBytes }, ofUpdate };
}

function wrong(field: string): OctomilError {
  return new OctomilError('invalid_input', `the assignment's task_json has a wrong controlVariates.${field}`);
}
