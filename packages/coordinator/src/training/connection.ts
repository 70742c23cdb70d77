import type { EventEmitter } from 'node:events';

/** A signal that holds a listener until it is released. */
export interface HeldSignal {
  readonly signal: AbortSignal;
  release(): void;
}

/** Aborts when `socket` closes. A kept-alive socket serves many requests, so each must release what it added. */
export function whenClosed(socket: EventEmitter): HeldSignal {
  const controller = new AbortController();
  const onClose = (): void => controller.abort();
  socket.once('close', onClose);
  return { signal: controller.signal, release: () => socket.off('close', onClose) };
}

/** Resolves with the next `drain` of `stream`, or when `gone` aborts; afterwards neither has a listener of it. */
export function drained(stream: EventEmitter, gone: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (gone.aborted) return resolve();
    const done = (): void => {
      stream.off('drain', done);
      gone.removeEventListener('abort', done);
      resolve();
    };
    stream.once('drain', done);
    gone.addEventListener('abort', done, { once: true });
  });
}
