import { resolve } from 'node:path';
import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import { parseGlob, parseSourceUrl } from './index.js';

test('every form names its place, key and what it selects', () => {
  const read = (text: string) => {
    const { place, selects, key, display } = parseSourceUrl(text);
    return [place.kind === 'bucket' ? place.address : place.kind, selects, key, display];
  };
  expect(read('s3://hospital-a/heart/2026.csv')).toEqual([
    { provider: 's3', bucket: 'hospital-a' },
    'object',
    'heart/2026.csv',
    's3://hospital-a/heart/2026.csv',
  ]);
  expect(read('S3://b-1/a b+%20ä.csv')[2]).toBe('a b+%20ä.csv');
  expect(read('gs://my_bucket/')).toEqual([{ provider: 'gs', bucket: 'my_bucket' }, 'prefix', '', 'gs://my_bucket/']);
  expect(read('az://data/y=2026/*.parquet')[1]).toBe('glob');
  expect(read('abfss://data@hospital.dfs.core.windows.net/in/x.csv')).toEqual([
    { provider: 'az', container: 'data', account: 'hospital', domain: 'core.windows.net' },
    'object',
    'in/x.csv',
    'https://hospital.blob.core.windows.net/data/in/x.csv',
  ]);
  expect(read('https://hospital.blob.core.windows.net/data/in/a%20b.csv?sv=1&sig=SECRET')).toEqual([
    { provider: 'az', container: 'data', account: 'hospital', domain: 'core.windows.net', sas: 'sv=1&sig=SECRET' },
    'object',
    'in/a b.csv',
    'https://hospital.blob.core.windows.net/data/in/a b.csv',
  ]);
  expect(read('https://data.example/x.csv?X-Amz-Signature=SECRET#part')).toEqual([
    'web',
    'object',
    'https://data.example/x.csv?X-Amz-Signature=SECRET',
    'https://data.example/x.csv',
  ]);
  expect(read('data/x.csv')).toEqual(['file', 'object', resolve('data/x.csv'), 'data/x.csv']);
  expect(read('file:///data/x?.csv').slice(0, 3)).toEqual(['file', 'glob', '/data/x?.csv']);
  expect(read('/data/folder/').slice(1, 3)).toEqual(['prefix', '/data/folder/']);
  expect(read('C:data.csv')[0]).toBe('file');
  expect(read('readings:2026.csv')[0]).toBe('file');
});

test('what is wrong is named, and secrets are not', () => {
  const wrong: [string, RegExp][] = [
    ['', /is empty/],
    ['ftp://host/x.csv', /from ftp: URLs; write a path/],
    ['s3://', /the bucket is missing/],
    ['s3:///key', /the bucket is missing/],
    ['s3://key:SECRET@bucket/x', /"bucket" is no name/],
    ['gs://UPPER/x', /"UPPER" is no name/],
    ['az://Container/x', /is no name of a container/],
    ['abfss://data/x.csv', /not CONTAINER@ACCOUNT/],
    ['https://user:SECRET@host.example/x.csv', /user name or password; use a signed URL/],
    ['http://host.example/x.csv?sig=SECRET', /plaintext; use https/],
    ['https://host.example/folder/', /https cannot list/],
    ['https://hospital.blob.core.windows.net/?sig=SECRET', /the container is missing/],
    ['s3://bucket/[ab', /does not close/],
    ['s3://bucket/a\nb', /control character/],
    [`s3://bucket/${'x'.repeat(1025)}`, /1025 bytes, more than the 1024/],
  ];
  for (const [text, reason] of wrong) {
    let thrown: unknown;
    try {
      parseSourceUrl(text);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: 'invalid_input', reason: expect.stringMatching(reason) });
    expect(String((thrown as Error).stack)).not.toContain('SECRET');
  }
});

test('any text is read or refused with our error, and never shown with its query', () => {
  const schemes = fc.constantFrom(
    's3://',
    'gs://',
    'az://',
    'abfss://c@acc.dfs.core.windows.net/',
    'https://',
    'file:',
    '',
  );
  fc.assert(
    fc.property(schemes, fc.string({ unit: 'binary', maxLength: 60 }), (scheme, rest) => {
      try {
        const { display } = parseSourceUrl(`${scheme}${rest}`);
        if (scheme === 'https://') expect(new URL(display.replaceAll('%', '%25')).search).toBe('');
      } catch (error) {
        expect(error).toBeInstanceOf(OctomilError);
        expect((error as OctomilError).code).toBe('invalid_input');
      }
    }),
  );
});

test('a key of a bucket is taken as it stands', () => {
  const key = fc.stringMatching(/^[A-Za-z0-9 _.%+=&äé,;@:-]([A-Za-z0-9 _.%+=&äé,;@:/-]{0,40}[a-z])?$/);
  fc.assert(
    fc.property(fc.constantFrom('s3', 'gs', 'az'), key, (scheme, text) => {
      const source = parseSourceUrl(`${scheme}://bucket-1/${text}`);
      expect(source).toMatchObject({ key: text, selects: 'object', display: `${scheme}://bucket-1/${text}` });
    }),
  );
});

test('patterns match as people expect', () => {
  const cases: [string, string[], string[]][] = [
    ['a/*.csv', ['a/x.csv', 'a/.csv'], ['a/b/x.csv', 'a/x.csv.gz', 'b/x.csv']],
    ['a/**/x.csv', ['a/x.csv', 'a/b/x.csv', 'a/b/c/x.csv'], ['a/b/y.csv']],
    ['**/*.parquet', ['x.parquet', 'a/b/x.parquet'], ['x.csv']],
    ['a**b', ['ab', 'a/x/b'], ['a/x']],
    ['x?.csv', ['x1.csv'], ['x.csv', 'x12.csv', 'x/.csv']],
    ['x[0-2a].csv', ['x0.csv', 'xa.csv'], ['x3.csv', 'x.csv']],
    ['x[!0-2].csv', ['x3.csv'], ['x0.csv', 'x/.csv']],
    ['a[*]b', ['a*b'], ['axb']],
    ['[[]1].csv', ['[1].csv'], ['1.csv']],
  ];
  for (const [pattern, yes, no] of cases) {
    const glob = parseGlob(pattern);
    for (const key of yes) expect([pattern, key, glob.matches(key)]).toEqual([pattern, key, true]);
    for (const key of no) expect([pattern, key, glob.matches(key)]).toEqual([pattern, key, false]);
    for (const key of yes) expect(key.startsWith(glob.prefix)).toBe(true);
  }
  // Exponential for whoever backtracks.
  expect(parseGlob(`${'*a'.repeat(200)}b`).matches('a'.repeat(1000))).toBe(false);
});
