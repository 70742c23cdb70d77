import { test } from '@jest/globals';

/** What a server that stands in for a cloud in the tests cannot show. */
const CANNOT: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  s3rver: {
    'parts of an upload': 's3rver answers ListParts and AbortMultipartUpload with 405',
    'ranges of one byte': 's3rver takes bytes=0-0 for the whole object',
    'lists of several pages': 's3rver answers a continuation token with 500',
    'checked credentials': 's3rver takes every key',
  },
  'fake-gcs-server': {
    'questions about an upload': 'fake-gcs-server takes a question about a session for its end',
  },
};

/** Why the server that a variable such as TEST_S3_SERVER names cannot show something; undefined where it can. */
export function cannotShow(serverVariable: string, what: string): string | undefined {
  return CANNOT[process.env[serverVariable] ?? '']?.[what];
}

/** A test that is skipped by name, with the reason, where there is one. */
export function testUnless(
  reason: string | undefined,
  name: string,
  run: () => Promise<void>,
  timeoutMs?: number,
): void {
  if (reason === undefined) test(name, run, timeoutMs);
  else test.skip(`${name}: ${reason}`, () => undefined);
}
