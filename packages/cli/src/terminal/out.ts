import { plain } from './plain.js';

/**
 * Writes to standard output, at the speed at which it is read: byte for byte into a pipe or file, and to a terminal
 * without what it would obey, since a model says what it was told to.
 *
 * @throws the stream's error when nobody reads any more
 */
export function say(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(process.stdout.isTTY ? plain(text) : text, (error) => (error ? reject(error) : resolve()));
  });
}

/**
 * A signal that aborts when the reader of a pipe has left. Without it, the process would fail over what it writes then.
 *
 * @returns `release` lets go of standard output
 */
export function readerGone(): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const onError = (error: Error): void => controller.abort(error);
  process.stdout.on('error', onError);
  return {
    signal: controller.signal,
    release: () => {
      // It is gone for good: what is said to it later must not end the process either.
      if (!controller.signal.aborted) process.stdout.off('error', onError);
    },
  };
}
