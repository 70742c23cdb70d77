import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AuditLog } from './audit-log.js';
import { FakeCoordinator } from './testing/fake-coordinator.js';

let coordinator: FakeCoordinator;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
});
afterEach(() => coordinator.stop());

test('entries come page after page, with the filter on every page; details are left as they are', async () => {
  const entry = (id: string) => ({ id, created_at: 't', remote_address: null, details: { some_field: 1 } });
  coordinator
    .json(200, { entries: [entry('3'), entry('2')], next_cursor: '2' })
    .json(200, { entries: [entry('1')], next_cursor: null });
  const log = new AuditLog({ apiKey: 'edg_t', apiBase: coordinator.apiBase });
  const seen: unknown[] = [];
  for await (const one of log.entries({ resource: 'models/m 1', since: new Date(0) })) seen.push(one);
  expect(seen).toMatchObject([
    { id: '3', createdAt: 't', remoteAddress: null, details: { some_field: 1 } },
    {},
    { id: '1' },
  ]);
  const filter = 'resource=models%2Fm+1&since=1970-01-01T00%3A00%3A00.000Z';
  expect(coordinator.requests.map(({ path }) => path)).toEqual([
    `/api/v1/audit?${filter}`,
    `/api/v1/audit?${filter.replace('&', '&cursor=2&')}`,
  ]);
});
