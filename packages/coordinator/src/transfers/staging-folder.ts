import { mkdir, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, type FolderLock, lockFolder } from '@octomil/shared/runtime';

/** More processes than this never share one folder. */
const MAX_SLOTS = 256;

/**
 * A folder for unfinished uploads that no other process writes to: the digest of an upload is taken while its bytes
 * arrive, so nobody else may change them. Processes that share `root` take the slots `0`, `1`, … in it; a restarted
 * process finds the free slot, and with it the parts, of the one before.
 */
export class StagingFolder {
  readonly path: string;
  readonly #lock: FolderLock;

  private constructor(lock: FolderLock) {
    this.path = lock.folder;
    this.#lock = lock;
  }

  /** @throws `store_locked` when every slot is taken */
  static async take(root: string, clock: Clock): Promise<StagingFolder> {
    await mkdir(root, { recursive: true, mode: 0o700 });
    for (let slot = 0; slot < MAX_SLOTS; slot++) {
      try {
        return new StagingFolder(await lockFolder(join(root, String(slot)), () => clock.now()));
      } catch (error) {
        if (!(error instanceof OctomilError) || error.code !== 'store_locked') throw error;
      }
    }
    throw new OctomilError('store_locked', `all ${MAX_SLOTS} slots of the staging folder ${root} are in use`);
  }

  /** The tickets that have files here. */
  async ticketIds(): Promise<string[]> {
    const names = await readdir(this.path);
    return [...new Set(names.flatMap((name) => /^([0-9a-f-]{36})\.(?:data|parts)$/.exec(name)?.[1] ?? []))];
  }

  /** The other slots, of processes that live or have died. */
  async siblings(): Promise<string[]> {
    const root = dirname(this.path);
    const names = await readdir(root);
    return names.map((name) => join(root, name)).filter((path) => path !== this.path);
  }

  async remove(ticketId: string): Promise<void> {
    await rm(join(this.path, `${ticketId}.parts`), { force: true });
    await rm(join(this.path, `${ticketId}.data`), { force: true });
  }

  release(): Promise<void> {
    return this.#lock.release();
  }
}
