import { create } from '@bufbuild/protobuf';
import { credentials, Metadata, Server, ServerCredentials } from '@grpc/grpc-js';
import { expect, test } from '@jest/globals';
import {
  AgentService,
  connectService,
  DownloadModelResponseSchema,
  EnrollResponseSchema,
  implement,
  type ServiceClient,
  SessionRequestSchema,
  SessionResponseSchema,
  UploadUpdateRequestSchema,
  UploadUpdateResponseSchema,
} from './index.js';

async function withService(run: (client: ServiceClient<typeof AgentService>) => Promise<void>): Promise<void> {
  const server = new Server();
  server.addService(
    ...implement(AgentService, {
      enroll: (call, callback) =>
        callback(null, create(EnrollResponseSchema, { deviceId: call.request.deviceIdentifier })),
      session: (stream) => {
        stream.on('data', (request) => {
          stream.write(
            create(SessionResponseSchema, {
              event: { case: 'welcome', value: { epoch: request.epoch + 1n, deviceId: request.event.case ?? 'none' } },
            }),
          );
        });
        stream.on('end', () => stream.end());
      },
      downloadModel: (call) => {
        call.write(create(DownloadModelResponseSchema, { offset: call.request.offset, data: Buffer.alloc(3, 7) }));
        call.end();
      },
      uploadUpdate: (call, callback) => {
        let received = 0;
        call.on('data', (request) => {
          if (request.content.case === 'chunk') received += request.content.value.data.length;
        });
        call.on('end', () => callback(null, create(UploadUpdateResponseSchema, { receivedBytes: BigInt(received) })));
      },
    }),
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  const client = connectService(AgentService, `127.0.0.1:${port}`, credentials.createInsecure());
  try {
    await run(client);
  } finally {
    client.close();
    server.forceShutdown();
  }
}

test('all four kinds of call carry their messages', async () => {
  await withService(async (client) => {
    const enrolled = await new Promise((resolve, reject) => {
      client.enroll({ deviceIdentifier: 'hospital-001' }, new Metadata(), {}, (error, response) =>
        error ? reject(error) : resolve(response?.deviceId),
      );
    });
    expect(enrolled).toBe('hospital-001');

    const session = client.session(new Metadata());
    session.write(create(SessionRequestSchema, { epoch: 4n, event: { case: 'hello', value: { processId: 'p' } } }));
    session.end();
    const events: unknown[] = [];
    for await (const response of session)
      events.push((response as { event: { value: { epoch: bigint } } }).event.value.epoch);
    expect(events).toEqual([5n]);

    const chunks: Uint8Array[] = [];
    for await (const part of client.downloadModel({ offset: 9n }, new Metadata())) {
      chunks.push((part as { data: Uint8Array }).data);
    }
    expect(Buffer.concat(chunks)).toEqual(Buffer.alloc(3, 7));

    const received = await new Promise((resolve, reject) => {
      const upload = client.uploadUpdate(new Metadata(), (error, response) =>
        error ? reject(error) : resolve(response?.receivedBytes),
      );
      upload.write(
        create(UploadUpdateRequestSchema, { content: { case: 'chunk', value: { offset: 0n, data: Buffer.alloc(5) } } }),
      );
      upload.end();
    });
    expect(received).toBe(5n);
  });
});

test('fields of a newer peer are ignored', () => {
  const { session } = implement(AgentService, {} as never)[0];
  const known = session?.requestSerialize(create(SessionRequestSchema, { epoch: 3n })) as Buffer;
  // Field 100, wire type 2, one byte.
  const newer = Buffer.concat([known, Buffer.from([0xa2, 0x06, 0x01, 0x41])]);
  expect(session?.requestDeserialize(newer)).toMatchObject({ epoch: 3n });
});
