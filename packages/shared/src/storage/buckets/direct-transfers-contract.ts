import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { DirectTransfers, ObjectStore } from '../object-store.js';
import type { PartUpload, PresignedRequest } from './bucket-client.js';
import { testUnless } from './stand-in-server.js';

const PART = 5 * 1024 * 1024;
const LIFETIME_MS = 60_000;

/**
 * What every store does that lets others send and fetch bytes directly.
 *
 * @param tellsReceived false for a server that takes the question what has arrived for the end of the upload
 * @param noParts why the server behind it cannot show uploads in parts
 * @param noNames why it cannot show names of downloads
 */
export function directTransfersContract(
  name: string,
  open: () => Promise<{ store: ObjectStore; close: () => Promise<void> }>,
  {
    tellsReceived,
    noParts,
    noNames,
  }: { readonly tellsReceived: boolean; readonly noParts?: string | undefined; readonly noNames?: string | undefined },
): void {
  describe(`DirectTransfers contract on ${name}`, () => {
    let store: ObjectStore;
    let direct: DirectTransfers;
    let close: () => Promise<void>;
    beforeAll(async () => {
      ({ store, close } = await open());
      if (store.direct === undefined) throw new TypeError('this store has no direct transfers');
      direct = store.direct;
    });
    afterAll(() => close());

    /** As somebody without credentials makes it. */
    const make = async ({ method, url, headers }: PresignedRequest, body?: Uint8Array) => {
      const response = await fetch(url, {
        method,
        headers,
        ...(body === undefined ? {} : { body: Buffer.from(body) }),
      });
      return { status: response.status, bytes: Buffer.from(await response.arrayBuffer()) };
    };
    const send = async (upload: PartUpload, bytes: Uint8Array, number: number) => {
      const piece = bytes.subarray(number * PART, (number + 1) * PART);
      const part = { number, offset: number * PART, sizeBytes: piece.length, totalBytes: bytes.length };
      return make(await direct.presignPart(upload, part, LIFETIME_MS), piece);
    };

    testUnless(noParts, 'parts sent by signed requests make the object, and nothing is there before', async () => {
      const bytes = randomBytes(2 * PART + 1234);
      const upload = await direct.begin('direct/whole');
      if (tellsReceived) expect(await direct.received(upload, PART)).toEqual([]);
      expect((await send(upload, bytes, 0)).status).toBeLessThan(400);
      if (tellsReceived) {
        expect(await direct.received(upload, PART)).toEqual([{ number: 0, sizeBytes: PART }]);
        await expect(direct.complete(upload, 3, bytes.length)).rejects.toMatchObject({ code: 'transfer_incomplete' });
      }
      expect(await store.stat('direct/whole')).toBeUndefined();
      // Another process goes on with what was stored as JSON.
      const resumed = JSON.parse(JSON.stringify(upload)) as PartUpload;
      for (const number of [1, 2]) expect((await send(resumed, bytes, number)).status).toBeLessThan(400);
      await direct.complete(resumed, 3, bytes.length);
      expect(bytes.equals(await store.readAll('direct/whole', bytes.length))).toBe(true);
    });

    testUnless(noParts, 'an upload of one small part', async () => {
      const bytes = randomBytes(1000);
      const upload = await direct.begin('direct/small');
      await send(upload, bytes, 0);
      await direct.complete(upload, 1, bytes.length);
      expect(bytes.equals(await store.readAll('direct/small', 1000))).toBe(true);
    });

    testUnless(noParts, 'a part sent twice counts once, and a part of another size is found', async () => {
      if (direct.inOrder) return;
      const bytes = randomBytes(PART + 10);
      const upload = await direct.begin('direct/twice');
      for (const number of [1, 0, 1]) await send(upload, bytes, number);
      const shorter = { number: 1, offset: PART, sizeBytes: 9, totalBytes: PART + 10 };
      await make(await direct.presignPart(upload, shorter, LIFETIME_MS), bytes.subarray(0, 9));
      await expect(direct.complete(upload, 2, bytes.length)).rejects.toMatchObject({ code: 'transfer_incomplete' });
      await send(upload, bytes, 1);
      await direct.complete(upload, 2, bytes.length);
      expect(bytes.equals(await store.readAll('direct/twice', bytes.length))).toBe(true);
    });

    testUnless(noParts, 'an upload that is given up leaves nothing', async () => {
      const bytes = randomBytes(PART + 10);
      const upload = await direct.begin('direct/aborted');
      await send(upload, bytes, 0);
      await direct.abort(upload);
      await direct.abort(upload);
      // Servers say it in different words: nothing is kept, or there is no such upload any more.
      if (tellsReceived) {
        const left = await direct.received(upload, PART).catch((): never[] => []);
        expect(left).toEqual([]);
      }
      expect(await store.stat('direct/aborted')).toBeUndefined();
    });

    test('a signed download works without credentials, by ranges too', async () => {
      const bytes = randomBytes(10_000);
      await store.put('direct/get', bytes);
      const signed = await direct.presignGet('direct/get', LIFETIME_MS);
      const whole = await make(signed);
      expect([whole.status, bytes.equals(whole.bytes)]).toEqual([200, true]);
      const part = await make({ ...signed, headers: { ...signed.headers, range: 'bytes=5-14' } });
      expect([part.status, bytes.subarray(5, 15).equals(part.bytes)]).toEqual([206, true]);
    });

    testUnless(noNames, 'a signed download carries the name that a browser saves it under', async () => {
      await store.put('direct/named', randomBytes(10));
      const disposition = `attachment; filename="heart-1.0.0.onnx"; filename*=UTF-8''herz-%C3%A4.onnx`;
      const { url } = await direct.presignGet('direct/named', LIFETIME_MS, disposition);
      const response = await fetch(url);
      expect([response.status, response.headers.get('content-disposition')]).toEqual([200, disposition]);
      await response.arrayBuffer();
    });
  });
}
