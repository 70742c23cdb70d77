import { OctomilError } from '@octomil/shared/errors';

/** Hands out aligned vectors from one buffer, front to back, and takes none back. */
export class KernelMemory {
  readonly #buffer: ArrayBuffer;
  #next: number;

  constructor(buffer: ArrayBuffer, start: number) {
    this.#buffer = buffer;
    this.#next = start;
  }

  float32(length: number): Float32Array<ArrayBuffer> {
    return new Float32Array(this.#buffer, this.#take(length * 4), length);
  }

  float64(length: number): Float64Array<ArrayBuffer> {
    return new Float64Array(this.#buffer, this.#take(length * 8), length);
  }

  #take(bytes: number): number {
    const start = this.#next;
    const left = this.#buffer.byteLength - start;
    if (bytes > left) {
      throw new OctomilError('insufficient_memory', `the kernel's memory has ${left} bytes left, ${bytes} are needed`);
    }
    this.#next += Math.ceil(bytes / 16) * 16;
    return start;
  }
}
