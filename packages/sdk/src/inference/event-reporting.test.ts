import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { InferenceEvent } from '@octomil/inference/quality';
import { HttpClient } from '../http-client.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import { eventReporter } from './event-reporting.js';

let coordinator: FakeCoordinator;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
});
afterEach(() => coordinator.stop());

const eventOf = (session: string): InferenceEvent => ({
  event_type: 'generation_started',
  session_id: session,
  model_id: 'm',
  modality: 'text',
  timestamp_ms: 1,
});
const sentSessions = (): unknown[] =>
  coordinator.requests.map(({ body }) => (JSON.parse(body) as { session_id?: unknown }).session_id);

test('events that are refused for good are given up, and do not hold back the next', async () => {
  const { apiBase, timing } = coordinator;
  const reporter = eventReporter(new HttpClient({ apiKey: 'edg_t', apiBase, timing }));
  coordinator.json(400, { code: 'invalid_input', message: 'model_id is unknown' }).json(202, {});
  reporter.report(eventOf('refused'));
  await reporter.flush();
  reporter.report(eventOf('next'));
  await reporter.flush();
  expect([sentSessions(), reporter.dropped, reporter.pending]).toEqual([['refused', 'next'], 1, 0]);
});

test('events that found nobody are sent again', async () => {
  const { apiBase, timing } = coordinator;
  const reporter = eventReporter(new HttpClient({ apiKey: 'edg_t', apiBase, timing }));
  coordinator.json(503, { code: 'network_unavailable', message: 'starting' }).json(202, {});
  reporter.report(eventOf('kept'));
  await reporter.flush();
  await reporter.flush();
  expect([sentSessions(), reporter.dropped, reporter.pending]).toEqual([['kept', 'kept'], 0, 0]);
});
