import { randomUUID } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readdirSync, readSync, rmSync, statfsSync, unlinkSync, write } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { OctomilError } from '@octomil/shared/errors';

const writeAt = promisify(write);
const MIB = 1_048_576;
const FILE_NAME = /^octomil-rows-(\d+)-/;
/** `read` and `write` take no more at once. */
const MAX_BYTES_AT_ONCE = 2 ** 30;

/** Files that could not be unlinked while open: this process's exit removes them. */
const left = new Set<string>();
let removesAtExit = false;

/**
 * Bytes of patients' rows in a file that only this process can reach: for its owner alone, and without a name from the
 * moment on when it is opened, so that nothing is left however the process ends. Where the system refuses to unlink an
 * open file, it is removed when it is closed or the process exits, and by the next process that opens one here.
 */
export class RowFile {
  readonly #folder: string;
  readonly #path: string;
  #descriptor: number | undefined;
  #sizeBytes = 0;

  /** @param folder made where it is absent. Default: the system's folder for temporary files. */
  constructor(folder: string = tmpdir()) {
    this.#folder = folder;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    sweep(folder);
    this.#path = join(folder, `octomil-rows-${process.pid}-${randomUUID()}`);
    this.#descriptor = openSync(this.#path, 'wx+', 0o600);
    try {
      unlinkSync(this.#path);
    } catch {
      this.#removeAtExit();
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /**
   * Appends; the bytes must stay as they are until the promise resolves.
   *
   * @throws OctomilError `insufficient_storage` on a full disk
   */
  async append(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, MAX_BYTES_AT_ONCE);
      try {
        const { bytesWritten } = await writeAt(this.#open(), bytes, done, length, this.#sizeBytes);
        done += bytesWritten;
        this.#sizeBytes += bytesWritten;
      } catch (error) {
        throw this.#full(error, bytes.length - done);
      }
    }
  }

  /** @throws OctomilError `insufficient_storage` where the disk has less room than this, as far as the system tells */
  expect(neededBytes: number): void {
    const freeBytes = this.#freeBytes();
    if (freeBytes !== undefined && freeBytes < neededBytes) throw this.#tooFull(neededBytes, freeBytes);
  }

  /** Fills `bytes` from the place. Waits for the disk: threads for it would cost more than most reads, which are cached. */
  read(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, MAX_BYTES_AT_ONCE);
      const count = readSync(this.#open(), bytes, done, length, position + done);
      if (count === 0) throw new OctomilError('internal', `row file of ${this.#sizeBytes} bytes, read at ${position}`);
      done += count;
    }
  }

  /** Gives the room back. Safe to repeat. */
  close(): void {
    if (this.#descriptor === undefined) return;
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
    if (!left.delete(this.#path)) return;
    rmSync(this.#path, { force: true });
  }

  /** A descriptor that was closed may by now be another file. */
  #open(): number {
    if (this.#descriptor === undefined) throw new OctomilError('internal', 'a row file was used after it was closed');
    return this.#descriptor;
  }

  #removeAtExit(): void {
    left.add(this.#path);
    if (removesAtExit) return;
    removesAtExit = true;
    process.once('exit', () => {
      for (const path of left) rmSync(path, { force: true });
    });
  }

  #full(error: unknown, neededBytes: number): unknown {
    const { code } = error as { readonly code?: unknown };
    if (code !== 'ENOSPC' && code !== 'EDQUOT' && code !== 'EFBIG') return error;
    return this.#tooFull(neededBytes, this.#freeBytes(), error);
  }

  #tooFull(neededBytes: number, freeBytes: number | undefined, cause?: unknown): OctomilError {
    const mib = (bytes: number): number => Math.ceil(bytes / MIB);
    const free = freeBytes === undefined ? 'none is left' : `${Math.floor(freeBytes / MIB)} MiB are free`;
    return new OctomilError(
      'insufficient_storage',
      // The first line may leave the site.
      `the encoded rows fit neither into memory nor onto the disk: ${mib(this.#sizeBytes)} MiB are written, at least ${mib(neededBytes)} MiB more are needed, and ${free}; free some, or allow more memory\nthe folder is ${this.#folder}`,
      { cause },
    );
  }

  #freeBytes(): number | undefined {
    try {
      const { bavail, bsize } = statfsSync(this.#folder);
      return bavail * bsize;
    } catch {
      return undefined;
    }
  }
}

/** Removes what processes left that could not unlink their files and were killed. */
function sweep(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = Number(FILE_NAME.exec(name)?.[1]);
    if (!Number.isInteger(pid) || left.has(join(folder, name)) || (pid !== process.pid && isAlive(pid))) continue;
    try {
      rmSync(join(folder, name), { force: true });
    } catch {
      // Another user's, in a folder that is shared: theirs to remove.
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { readonly code?: unknown }).code === 'EPERM';
  }
}
