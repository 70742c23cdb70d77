import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import {
  bucketEndMs,
  bucketOf,
  EventReporter,
  eventMetrics,
  HISTOGRAM_BUCKETS,
  histogramPercentile,
  type InferenceEvent,
  postEvents,
  StreamMeter,
} from './index.js';

/** A clock whose time a test moves. */
function manualClock() {
  let now = 0;
  let timers: { at: number; callback: () => void }[] = [];
  return {
    now: () => now,
    sleep: async () => undefined,
    after: (delayMs: number, callback: () => void) => {
      const timer = { at: now + delayMs, callback };
      timers.push(timer);
      return () => {
        timers = timers.filter((one) => one !== timer);
      };
    },
    advance: async (ms: number) => {
      now += ms;
      const due = timers.filter(({ at }) => at <= now);
      timers = timers.filter(({ at }) => at > now);
      for (const { callback } of due) callback();
      for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
    },
  };
}

const event = (session: number): InferenceEvent => ({
  event_type: 'generation_completed',
  session_id: String(session),
  model_id: 'm',
});

test('a meter tells first chunk, mean pause, throughput and duration', () => {
  let now = 100;
  const meter = new StreamMeter(() => now);
  expect(meter.summary()).toMatchObject({ ttfcMs: null, meanChunkLatencyMs: null, totalChunks: 0, throughput: 0 });
  now = 150;
  meter.chunk();
  now = 170;
  meter.chunk(2);
  now = 190;
  meter.chunk();
  now = 300;
  expect(meter.summary()).toEqual({
    ttfcMs: 50,
    meanChunkLatencyMs: 40 / 3,
    totalChunks: 4,
    totalDurationMs: 200,
    throughput: 20,
  });
  expect(eventMetrics(meter.summary())).toMatchObject({ ttfc_ms: 50, mean_chunk_latency_ms: 13.333, throughput: 20 });
});

test('events go in batches, by number and by time', async () => {
  const clock = manualClock();
  const sent: number[] = [];
  const reporter = new EventReporter({
    send: async (events) => {
      sent.push(events.length);
    },
    clock,
    maxBatch: 3,
    intervalMs: 1_000,
  });
  for (let index = 0; index < 4; index += 1) reporter.report(event(index));
  await clock.advance(0);
  expect(sent).toEqual([3, 1]);
  reporter.report(event(9));
  await clock.advance(999);
  expect(sent).toEqual([3, 1]);
  await clock.advance(1);
  expect(sent).toEqual([3, 1, 1]);
  reporter.report(event(10));
  await reporter.stop();
  expect([sent.length, reporter.dropped]).toEqual([4, 0]);
});

test('a receiver that fails delays nobody: events wait, up to a bound, in their order', async () => {
  const clock = manualClock();
  let fails = true;
  const received: string[] = [];
  const reporter = new EventReporter({
    send: async (events) => {
      if (fails) throw new OctomilError('network_unavailable', 'down');
      received.push(...events.map(({ session_id }) => session_id));
    },
    clock,
    maxBatch: 2,
    maxPending: 4,
    intervalMs: 1_000,
  });
  for (let index = 0; index < 6; index += 1) reporter.report(event(index));
  await clock.advance(1_000);
  await clock.advance(1_000);
  expect([reporter.pending, reporter.dropped]).toEqual([4, 2]);
  fails = false;
  await clock.advance(60_000);
  expect(received).toEqual(['2', '3', '4', '5']);
});

test('what a receiver will never take is dropped, and the rest still goes', async () => {
  const clock = manualClock();
  const received: string[] = [];
  const reporter = new EventReporter({
    send: async (events) => {
      if (events[0]?.session_id === '0') throw new OctomilError('invalid_input', 'no');
      received.push(...events.map(({ session_id }) => session_id));
    },
    clock,
    maxBatch: 1,
  });
  reporter.report(event(0));
  reporter.report(event(1));
  await reporter.flush();
  expect([received, reporter.dropped]).toEqual([['1'], 1]);
});

test('one event is posted as itself, several as a list', async () => {
  const bodies: unknown[] = [];
  const send = postEvents({
    url: 'http://x/api/v1/inference/events',
    fetch: async (_url, init) => {
      bodies.push(JSON.parse(String(init?.body)));
      return new Response('{}', { status: bodies.length < 3 ? 200 : 503 });
    },
  });
  const { signal } = new AbortController();
  await send([event(1)], signal);
  await send([event(1), event(2)], signal);
  expect(bodies).toEqual([event(1), { events: [event(1), event(2)] }]);
  await expect(send([event(3)], signal)).rejects.toMatchObject({ code: 'network_unavailable' });
});

test('a bucket holds what it says, and a percentile is at most a fifth too long', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 3_000_000, noNaN: true }), (ms) => {
      const bucket = bucketOf(ms);
      expect(bucket).toBeLessThan(HISTOGRAM_BUCKETS);
      expect(bucketEndMs(bucket)).toBeGreaterThanOrEqual(ms * 0.999_999);
      if (bucket > 0) expect(bucketEndMs(bucket - 1)).toBeLessThanOrEqual(ms * 1.000_001);
    }),
  );
  const counts = Array.from({ length: HISTOGRAM_BUCKETS }, () => 0);
  expect(histogramPercentile(counts, 0.5)).toBeNull();
  for (let ms = 1; ms <= 1000; ms += 1) counts[bucketOf(ms)] = (counts[bucketOf(ms)] ?? 0) + 1;
  const p95 = histogramPercentile(counts, 0.95) ?? 0;
  expect(p95).toBeGreaterThanOrEqual(950);
  expect(p95).toBeLessThan(950 * 1.2);
});
