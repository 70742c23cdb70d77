import { closeSync, openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { type ParameterLayout, readLayoutSync } from '@octomil/shared/tensors';
import type { FileSource, ReadRequest } from './read-ahead.js';

/** Files kept open at once; the ones beyond are opened for each read, so descriptors do not grow with the updates. */
const MAX_OPEN_FILES = 128;

/** A weights file that is read range by range. */
export class WeightsSource implements FileSource {
  readonly path: string;
  readonly layout: ParameterLayout;
  #descriptor: number | undefined;

  private constructor(path: string, layout: ParameterLayout, descriptor: number | undefined) {
    this.path = path;
    this.layout = layout;
    this.#descriptor = descriptor;
  }

  /**
   * Opens it and reads its header, without the thread pool: a job opens many files before it can begin, and its thread
   * has nothing else to do.
   *
   * @param index its place among the files of the job
   * @throws `corrupt_file`
   */
  static open(path: string, index = 0): WeightsSource {
    const descriptor = openSync(path, 'r');
    let kept = false;
    try {
      const layout = readLayoutSync(descriptor);
      kept = index < MAX_OPEN_FILES;
      return new WeightsSource(path, layout, kept ? descriptor : undefined);
    } finally {
      if (!kept) closeSync(descriptor);
    }
  }

  /** `length` parameters from parameter `start` on. */
  request(start: number, length: number): ReadRequest {
    return { file: this, position: this.layout.headerBytes.length + start * 4, length };
  }

  async withDescriptor<T>(use: (descriptor: number) => Promise<T>): Promise<T> {
    if (this.#descriptor !== undefined) return await use(this.#descriptor);
    const handle = await open(this.path, 'r');
    try {
      return await use(handle.fd);
    } finally {
      await handle.close();
    }
  }

  /** Safe to repeat. */
  close(): void {
    const descriptor = this.#descriptor;
    this.#descriptor = undefined;
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
