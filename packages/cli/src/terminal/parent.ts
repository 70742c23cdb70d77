/**
 * Aborts when the process that started this one over an IPC channel is gone, so that a killed demo leaves nothing behind.
 * Without a channel (a person's shell) it never does.
 */
export function parentGone(): AbortSignal {
  const controller = new AbortController();
  if (process.send !== undefined) {
    process.once('disconnect', () => controller.abort());
    // The channel is for hearing of the end; it is no reason to go on.
    process.channel?.unref();
  }
  return controller.signal;
}
