import type { IncomingMessage } from 'node:http';

/** How long a refused body may go on before its connection is cut: time for the sender to read the answer. */
const DISCARD_WITHIN_MS = 500;

/** Reads on what is left of a refused body, for a moment: cut at once, its sender would not see the answer. */
export function discardRest(request: IncomingMessage): void {
  if (request.complete || request.destroyed) return;
  const cut = setTimeout(() => request.socket.destroy(), DISCARD_WITHIN_MS);
  cut.unref();
  request.once('close', () => clearTimeout(cut));
  request.once('end', () => clearTimeout(cut));
  request.resume();
}
