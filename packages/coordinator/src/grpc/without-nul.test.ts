import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { SessionRequestSchema } from '@octomil/proto';
import { readAnyJson } from './wire-fields.js';
import { withoutNul } from './without-nul.js';

test('NUL is taken out of the texts and the names of a message, and its bytes are left alone', () => {
  const request = create(SessionRequestSchema, {
    epoch: 1n,
    event: {
      case: 'hello',
      value: {
        hostName: 'ward\0-7',
        capabilities: { trainers: ['tf\0js'], memoryBytes: 8n },
        site: { labels: { 're\0gion': 'nor\0th', plain: 'as it is' } },
      },
    },
  });
  expect(withoutNul(request).event.value).toMatchObject({
    hostName: 'ward-7',
    capabilities: { trainers: ['tfjs'], memoryBytes: 8n },
    site: { labels: { region: 'north', plain: 'as it is' } },
  });
  expect(withoutNul({ chunk: new Uint8Array([0, 1, 0]) })).toEqual({ chunk: new Uint8Array([0, 1, 0]) });
});

test('NUL that JSON writes as an escape is taken out as well, and a name cannot become a prototype', () => {
  const value = readAnyJson('{"a\\u0000":["b\\u0000c","d\\\\u0000"],"__pro\\u0000to__":{"polluted":true}}', 'json');
  expect(Object.entries(value as object)).toEqual([
    ['a', ['bc', 'd\\u0000']],
    ['__proto__', { polluted: true }],
  ]);
  expect((value as { polluted?: boolean }).polluted).toBeUndefined();
});
