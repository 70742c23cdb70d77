import { type FileHandle, open } from 'node:fs/promises';
import { type ParameterLayout, readLayout } from '@octomil/shared/tensors';
import type { FileSource, ReadRequest } from './read-ahead.js';

/** Files kept open at once; the ones beyond are opened for each read, so descriptors do not grow with the updates. */
const MAX_OPEN_FILES = 128;

/** A weights file that is read range by range. */
export class WeightsSource implements FileSource {
  readonly path: string;
  readonly layout: ParameterLayout;
  readonly #handle: FileHandle | undefined;

  private constructor(path: string, layout: ParameterLayout, handle: FileHandle | undefined) {
    this.path = path;
    this.layout = layout;
    this.#handle = handle;
  }

  /**
   * @param index its place among the files of the job
   * @throws `corrupt_file`
   */
  static async open(path: string, index = 0): Promise<WeightsSource> {
    const layout = await readLayout(path);
    return new WeightsSource(path, layout, index < MAX_OPEN_FILES ? await open(path, 'r') : undefined);
  }

  /** `length` parameters from parameter `start` on. */
  request(start: number, length: number): ReadRequest {
    return { file: this, position: this.layout.headerBytes.length + start * 4, length };
  }

  async withDescriptor<T>(use: (descriptor: number) => Promise<T>): Promise<T> {
    if (this.#handle !== undefined) return await use(this.#handle.fd);
    const handle = await open(this.path, 'r');
    try {
      return await use(handle.fd);
    } finally {
      await handle.close();
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }
}
