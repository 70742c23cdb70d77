/**
 * Writes to standard output, at the speed at which it is read.
 *
 * @throws the stream's error when nobody reads any more
 */
export function say(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()));
  });
}

/**
 * Aborts when the reader of a pipe has left, as `head` does when it has enough. Without it, the process would fail over
 * what it writes after that.
 */
export function readerGone(): AbortSignal {
  const controller = new AbortController();
  process.stdout.on('error', (error) => controller.abort(error));
  return controller.signal;
}
