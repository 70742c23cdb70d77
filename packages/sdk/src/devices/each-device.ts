import type { HttpClient, Query } from '../http-client.js';
import type { Paging } from '../models/model.js';
import { listOf } from '../training-session.js';
import { type Device, readDevice } from './device.js';

const PAGE_SIZE = 1000;

/** Devices of a list, a page at a time. By cursor after the first page, for offsets of a million devices are slow. */
export async function* eachDevice(
  http: HttpClient,
  path: string,
  filter: Query,
  { limit = Number.POSITIVE_INFINITY, offset = 0, signal }: Paging,
): AsyncGenerator<Device, void, undefined> {
  let place: { offset: number } | { cursor: string } = { offset };
  for (let asked = 0; asked < limit; ) {
    const size = Math.min(PAGE_SIZE, limit - asked);
    const answer: Record<string, unknown> = await http.json('GET', path, {
      query: { ...filter, limit: size, ...place },
      signal,
    });
    const page = listOf(answer, 'devices');
    yield* page.map(readDevice);
    asked += page.length;
    const cursor = answer['next_cursor'];
    if (page.length < size || cursor === null) return;
    place = typeof cursor === 'string' ? { cursor } : { offset: offset + asked };
  }
}
