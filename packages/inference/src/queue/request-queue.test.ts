import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { QueueFullError, QueueTimeoutError } from './queue-errors.js';
import { RequestQueue } from './request-queue.js';

/** A function that runs until it is told to end. */
function gate(): { run: () => Promise<string>; open: (answer: string) => void } {
  const { promise, resolve } = Promise.withResolvers<string>();
  return { run: () => promise, open: resolve };
}

class FakeTimers {
  readonly #due = new Set<{ atMs: number; callback: () => void }>();
  #nowMs = 0;
  readonly clock = {
    after: (delayMs: number, callback: () => void): (() => void) => {
      const entry = { atMs: this.#nowMs + delayMs, callback };
      this.#due.add(entry);
      return () => this.#due.delete(entry);
    },
  };
  get pending(): number {
    return this.#due.size;
  }
  advance(byMs: number): void {
    this.#nowMs += byMs;
    for (const entry of [...this.#due]) {
      if (entry.atMs > this.#nowMs) continue;
      this.#due.delete(entry);
      entry.callback();
    }
  }
}

const echo = { generateFn: (text: string) => text };

test('answers in the order of arrival, one at a time', async () => {
  const queue = new RequestQueue();
  const order: string[] = [];
  let running = 0;
  const submit = (name: string): Promise<void> =>
    queue.submitGenerate(name, {
      generateFn: async (asked) => {
        running += 1;
        expect(running).toBe(1);
        await Promise.resolve();
        order.push(asked);
        running -= 1;
      },
    });
  await Promise.all(['a', 'b', 'c', 'd'].map(submit));
  expect(order).toEqual(['a', 'b', 'c', 'd']);
  expect(queue.stats()).toEqual({ pending: 0, active: 0, maxDepth: 32 });
});

test('whoever comes while a turn is handed over waits behind those who wait', async () => {
  const queue = new RequestQueue();
  const first = gate();
  const order: string[] = [];
  const note = { generateFn: (name: string) => order.push(name) };
  const running = queue.submitGenerate('first', { generateFn: first.run });
  const waiting = queue.submitGenerate('second', note);
  first.open('done');
  // The first has ended as soon as it is answered; the second has not necessarily begun.
  await running;
  await Promise.all([waiting, queue.submitGenerate('third', note)]);
  expect(order).toEqual(['second', 'third']);
});

test('refuses at once when as many wait as may, and says how many that is', async () => {
  const queue = new RequestQueue({ maxDepth: 2 });
  const held = gate();
  const accepted = [0, 1, 2].map(() => queue.submitGenerate('x', { generateFn: held.run }));
  const refusal = await queue.submitGenerate('x', echo).catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(QueueFullError);
  expect(refusal).toMatchObject({ code: 'rate_limited', retryAfterSeconds: 1, details: { maxDepth: 2 } });
  expect(queue.stats()).toEqual({ pending: 2, active: 1, maxDepth: 2 });
  held.open('done');
  expect(await Promise.all(accepted)).toEqual(['done', 'done', 'done']);
});

test('the time limit covers the wait and not the work', async () => {
  const timers = new FakeTimers();
  const queue = new RequestQueue({ timeoutMs: 100, clock: timers.clock });
  const held = gate();
  const running = queue.submitGenerate('x', { generateFn: held.run });
  const waiting = queue.submitGenerate('y', echo).catch((error: unknown) => error);
  timers.advance(101);
  const refusal = await waiting;
  expect(refusal).toBeInstanceOf(QueueTimeoutError);
  expect(refusal).toMatchObject({ code: 'request_timeout', details: { timeoutMs: 100 } });
  timers.advance(10_000);
  held.open('late, and welcome');
  expect(await running).toBe('late, and welcome');
  expect(timers.pending).toBe(0);
});

test('a waiter that is cancelled makes room, and its function never runs', async () => {
  const queue = new RequestQueue({ maxDepth: 1 });
  const held = gate();
  const running = queue.submitGenerate('x', { generateFn: held.run });
  const cancel = new AbortController();
  let ran = false;
  const cancelled = queue
    .submitGenerate('y', { generateFn: () => (ran = true), signal: cancel.signal })
    .catch((error: unknown) => error);
  const why = new Error('changed my mind');
  cancel.abort(why);
  expect(await cancelled).toBe(why);
  const next = queue.submitGenerate('z', echo);
  held.open('done');
  expect(await Promise.all([running, next])).toEqual(['done', 'z']);
  expect(ran).toBe(false);
});

test('a failure of one is not the failure of the next', async () => {
  const queue = new RequestQueue();
  const failing = queue.submitGenerate('x', { generateFn: () => Promise.reject(new Error('engine')) });
  const next = queue.submitGenerate('y', echo);
  await expect(failing).rejects.toThrow('engine');
  expect(await next).toBe('y');
});

test('a stream is produced no faster than it is read, and leaving it ends the generation and the turn', async () => {
  const queue = new RequestQueue();
  let produced = 0;
  let aborted = false;
  const stream = queue.submitGenerateStream('x', {
    async *generateStreamFn(_request, { signal }) {
      signal.addEventListener('abort', () => (aborted = true));
      for (;;) yield ++produced;
    },
  });
  expect(queue.stats().active).toBe(0);
  expect((await stream.next()).value).toBe(1);
  expect((await stream.next()).value).toBe(2);
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(produced).toBe(2);
  const next = queue.submitGenerate('y', echo);
  expect(queue.stats()).toEqual({ pending: 1, active: 1, maxDepth: 32 });
  await stream.return();
  expect(aborted).toBe(true);
  expect(await next).toBe('y');
});

test('stopping refuses what waits, lets what runs end, and waits for it', async () => {
  const queue = new RequestQueue();
  const held = gate();
  const running = queue.submitGenerate('x', { generateFn: held.run });
  const waiting = queue.submitGenerate('y', echo).catch((error: unknown) => error);
  let stopped = false;
  const stopping = queue.stop().then(() => (stopped = true));
  expect(await waiting).toMatchObject({ code: 'cancelled' });
  await expect(queue.submitGenerate('z', echo)).rejects.toMatchObject({ code: 'cancelled' });
  expect(stopped).toBe(false);
  held.open('done');
  expect(await running).toBe('done');
  await stopping;
  queue.start();
  expect(await queue.submitGenerate('again', echo)).toBe('again');
});

test('stopping with abortActive ends what runs through its signal', async () => {
  const queue = new RequestQueue();
  const running = queue
    .submitGenerate('x', {
      generateFn: (_request, { signal }) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    })
    .catch((error: unknown) => error);
  await queue.stop({ abortActive: true });
  expect(await running).toMatchObject({ code: 'cancelled' });
});

test('never runs more than it may, and answers everything, whatever the order of ends', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.nat(3), { minLength: 1, maxLength: 20 }),
      async (concurrency, ticks) => {
        const queue = new RequestQueue({ concurrency, maxDepth: 100 });
        let running = 0;
        let most = 0;
        const answers = await Promise.all(
          ticks.map((count, index) =>
            queue.submitGenerate(index, {
              generateFn: async (asked) => {
                most = Math.max(most, ++running);
                for (let tick = 0; tick < count; tick++) await Promise.resolve();
                running -= 1;
                return asked;
              },
            }),
          ),
        );
        expect(answers).toEqual(ticks.map((_count, index) => index));
        expect(most).toBeLessThanOrEqual(concurrency);
        if (ticks.every((count) => count > 0)) expect(most).toBe(Math.min(concurrency, ticks.length));
        expect(queue.stats()).toMatchObject({ pending: 0, active: 0 });
      },
    ),
    { numRuns: 50 },
  );
});

test('limits that are no limits are refused with their names', () => {
  for (const [field, value] of [
    ['maxDepth', -1],
    ['timeoutMs', 0],
    ['concurrency', Number.NaN],
  ] as const) {
    expect(() => new RequestQueue({ [field]: value })).toThrow(
      expect.objectContaining({ code: 'invalid_input', details: expect.objectContaining({ field }) }),
    );
  }
});
