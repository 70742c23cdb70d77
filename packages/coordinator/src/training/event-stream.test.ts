import { expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import fc from 'fast-check';
import type { SessionEvent } from './event-feed.js';
import { type EventSource, streamEvents } from './event-stream.js';

function source(): EventSource & { push(type: SessionEvent['type']): void; skip(): void } {
  const events: SessionEvent[] = [];
  const followers = new Set<() => void>();
  let id = 0;
  return {
    read: async (_session, afterId, limit) => events.filter((event) => event.id > afterId).slice(0, limit),
    follow: (_session, wake) => {
      followers.add(wake);
      return () => followers.delete(wake);
    },
    push: (type) => {
      id += 1;
      events.push({ id, type, data: { id } });
      for (const wake of followers) wake();
    },
    skip: () => {
      id += 3;
    },
  };
}

function sink(): { text: string; write(text: string): boolean; drained(): Promise<void> } {
  return {
    text: '',
    write(text) {
      this.text += text;
      return false;
    },
    drained: () => new Promise((resolve) => setImmediate(resolve)),
  };
}

const idsIn = (text: string): number[] => [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));

test('every event is sent once and in order, also over reconnections at any point', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom('push', 'cut', 'turn', 'skip'), { maxLength: 40 }), async (steps) => {
      const from = source();
      let received: number[] = [];
      let to = sink();
      let gone = new AbortController();
      const open = (): Promise<void> =>
        streamEvents(from, to, {
          sessionId: 's',
          afterId: received.at(-1) ?? 0,
          clock: systemClock,
          signal: gone.signal,
        });
      let running = open();
      let pushed = 0;
      for (const step of steps) {
        if (step === 'push') {
          from.push('update');
          pushed += 1;
        } else if (step === 'skip') from.skip();
        else if (step === 'turn') await new Promise((resolve) => setImmediate(resolve));
        else {
          gone.abort();
          await running;
          received = [...received, ...idsIn(to.text)];
          to = sink();
          gone = new AbortController();
          running = open();
        }
      }
      from.push('end');
      await running;
      received = [...received, ...idsIn(to.text)];
      expect(received).toHaveLength(pushed + 1);
      expect([...new Set(received)].sort((a, b) => a - b)).toEqual(received);
    }),
    { numRuns: 50 },
  );
});

test('a heartbeat is sent while nothing happens, and looks for events whose wake-up was lost', async () => {
  const from = source();
  const silent: EventSource = { read: from.read, follow: () => () => undefined };
  const to = sink();
  let beat: () => void = () => undefined;
  const clock = {
    ...systemClock,
    after: (_delayMs: number, callback: () => void) => {
      beat = callback;
      return () => undefined;
    },
  };
  const running = streamEvents(silent, to, { sessionId: 's', afterId: 0, clock, signal: new AbortController().signal });
  await new Promise((resolve) => setImmediate(resolve));
  from.push('end');
  beat();
  await running;
  expect(to.text).toBe(': keep-alive\n\nid: 1\nevent: end\ndata: {"id":1}\n\n');
});
