import { type ChildProcess, fork } from 'node:child_process';
import type { ImageShape } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, entryPoint, type Logger } from '@octomil/shared/runtime';
import type { FromPictures, ToPictures } from './picture-child.js';

export interface PictureDecoderOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** For one picture. Default 30 s. */
  readonly limitMs?: number;
}

/** A radiograph takes a few seconds. */
const LIMIT_MS = 30_000;
/** Then its process ends, and gives back the memory of the largest picture. */
const IDLE_MS = 60_000;
const MAX_WAITING = 64;

/**
 * Decodes the pictures of requests in a process of its own, one after the other: no picture, however made, keeps this
 * process from answering others, and one that takes too long is given up with that process.
 */
export class PictureDecoder {
  readonly #options: PictureDecoderOptions;
  #child: ChildProcess | undefined;
  #turn: Promise<void> = Promise.resolve();
  #waiting = 0;
  #cancelIdle = (): void => undefined;

  constructor(options: PictureDecoderOptions) {
    this.#options = options;
  }

  /**
   * @returns as `resizeImage`
   * @throws OctomilError as `decodeImage`; `too_large` for a picture that takes too long; `rate_limited` where too many
   * wait; `inference_failed` where the process ended; the signal's reason
   */
  async decode(bytes: Uint8Array, shape: ImageShape, signal?: AbortSignal): Promise<Float32Array> {
    if (this.#waiting >= MAX_WAITING) {
      throw new OctomilError('rate_limited', `${MAX_WAITING} pictures wait to be decoded; try again in a moment`);
    }
    this.#waiting++;
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = promise;
    try {
      await before;
      this.#cancelIdle();
      signal?.throwIfAborted();
      return await this.#ask({ bytes, shape }, signal);
    } finally {
      this.#waiting--;
      this.#cancelIdle = this.#options.clock.after(IDLE_MS, () => void this.#end());
      resolve();
    }
  }

  async stop(): Promise<void> {
    await this.#end();
    this.#cancelIdle();
  }

  async #ask(question: ToPictures, signal: AbortSignal | undefined): Promise<Float32Array> {
    const { clock, limitMs = LIMIT_MS } = this.#options;
    const child = this.#started();
    const answered = Promise.withResolvers<FromPictures>();
    const giveUp = (reason: unknown): void => {
      answered.reject(reason);
      void this.#end();
    };
    const onAbort = (): void => giveUp(signal?.reason);
    const onClose = (): void =>
      answered.reject(new OctomilError('inference_failed', 'the process that decodes pictures ended; try again'));
    child.once('message', answered.resolve);
    child.once('close', onClose);
    signal?.addEventListener('abort', onAbort, { once: true });
    const cancelLimit = clock.after(limitMs, () =>
      giveUp(new OctomilError('too_large', `it takes longer than ${limitMs} ms to decode; resize the picture`)),
    );
    try {
      child.send(question, () => undefined);
      const answer = await answered.promise;
      if ('pixels' in answer) return answer.pixels;
      throw OctomilError.fromBody(answer.failure);
    } finally {
      cancelLimit();
      child.off('message', answered.resolve);
      child.off('close', onClose);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #started(): ChildProcess {
    if (this.#child !== undefined) return this.#child;
    const { path, execArgv } = entryPoint(import.meta.url, 'picture-child');
    const child = fork(path, { execArgv, serialization: 'advanced', stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
    child.on('error', (error) => this.#options.logger.warn({ error }, 'the process that decodes pictures failed'));
    child.on('close', () => {
      if (this.#child === child) this.#child = undefined;
    });
    this.#child = child;
    return child;
  }

  async #end(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
  }
}
