import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { HttpClient } from './http-client.js';
import { type EventStreamOptions, sessionEvents, type TrainingEvent } from './session-events.js';
import { FakeCoordinator } from './testing/fake-coordinator.js';

let coordinator: FakeCoordinator;
let http: HttpClient;

beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
  http = new HttpClient({ apiKey: 'edg_test', apiBase: coordinator.apiBase, timing: coordinator.timing });
});
afterEach(() => coordinator.stop());

async function collect(options: EventStreamOptions = {}): Promise<TrainingEvent[]> {
  const events: TrainingEvent[] = [];
  for await (const event of sessionEvents(http, 's 1', options)) events.push(event);
  return events;
}

const ROUND = 'id: 1\nevent: round\ndata: {"session_id":"s","round_number":1}\n\n';
const END = 'id: 2\nevent: end\ndata: {"state":"completed"}\n\n';

test('reads events with their names in camelCase, until end', async () => {
  coordinator.events(`: hello\n\n${ROUND}${END}id: 3\nevent: round\ndata: {}\n\n`);
  await expect(collect()).resolves.toEqual([
    { id: '1', type: 'round', data: { sessionId: 's', roundNumber: 1 } },
    { id: '2', type: 'end', data: { state: 'completed' } },
  ]);
  expect(coordinator.requests[0]).toMatchObject({ path: '/api/v1/training/sessions/s%201/events' });
  expect(coordinator.requests[0]?.headers['last-event-id']).toBeUndefined();
});

test('goes on after the last event seen when the connection breaks, the coordinator restarts or the stream closes', async () => {
  coordinator
    .events(`${ROUND}id: 9\nevent: round\ndata: {"round_num`, true)
    .json(503, { code: 'network_unavailable', message: 'starting' })
    .events('')
    .events(END);
  const events = await collect();
  expect(events.map((event) => event.id)).toEqual(['1', '2']);
  expect(coordinator.requests.map((request) => request.headers['last-event-id'])).toEqual([undefined, '1', '1', '1']);
});

test('starts after a given event', async () => {
  coordinator.events(END);
  await collect({ lastEventId: '41' });
  expect(coordinator.requests[0]?.headers['last-event-id']).toBe('41');
});

test('ends where the coordinator says that there is nothing more', async () => {
  coordinator.next((_request, response) => response.writeHead(204).end());
  await expect(collect({ lastEventId: '2' })).resolves.toEqual([]);
  expect(coordinator.requests).toHaveLength(1);
});

test('an answer that trying again would not change ends it', async () => {
  coordinator.json(404, { code: 'not_found', message: 'no session s 1' });
  await expect(collect()).rejects.toMatchObject({ code: 'not_found' });
  expect(coordinator.requests).toHaveLength(1);
});

test('gives up once the coordinator has been away for as long as allowed', async () => {
  for (let index = 0; index < 4; index++) coordinator.json(503, {});
  await expect(collect({ maxOutageMs: 1000 })).rejects.toMatchObject({ status: 503 });
  expect(coordinator.requests).toHaveLength(4);
});

test('a coordinator that sends keep-alives is not away, however often the connection ends', async () => {
  for (let index = 0; index < 10; index++) coordinator.events(': keep-alive\n\n', index % 2 === 0);
  coordinator.events(END);
  const events = await collect({ maxOutageMs: 1000 });
  expect(events.map((event) => event.id)).toEqual(['2']);
  expect(Math.max(...coordinator.waitsMs)).toBe(250);
});

test.each([
  ['ends each connection at once', {}, ''],
  ['answers with a page', { 'content-type': 'text/html' }, '<p>Sign in</p>'],
])('gives up on who %s', async (_what, headers, text) => {
  for (let index = 0; index < 6; index++) {
    coordinator.next((_request, response) => response.writeHead(200, headers).end(text));
  }
  await expect(collect({ maxOutageMs: 1000 })).rejects.toMatchObject({ code: 'network_unavailable' });
  expect(coordinator.requests).toHaveLength(4);
});

test('silence for longer than allowed counts as a dead connection', async () => {
  coordinator.next((_request, response) => response.writeHead(200).write(ROUND)).events(END);
  const events = await collect({ idleTimeoutMs: 50 });
  expect(events.map((event) => event.id)).toEqual(['1', '2']);
});

test('the signal ends it as cancelled', async () => {
  const controller = new AbortController();
  coordinator.next((_request, response) => response.writeHead(200).write(ROUND));
  const events = sessionEvents(http, 's', { signal: controller.signal });
  await expect(events.next()).resolves.toMatchObject({ done: false });
  controller.abort();
  await expect(events.next()).rejects.toMatchObject({ code: 'cancelled' });
});
