import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { wirePath } from './wire-path.js';

test('whatever the name, it stays one segment of the URL and comes out as it went in', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), (name) => {
      fc.pre(name !== '.' && name !== '..');
      const { pathname, search, hash } = new URL(`http://h/api/v1${wirePath('models', name, 'versions')}`);
      expect([search, hash]).toEqual(['', '']);
      const segments = pathname.split('/');
      expect(segments).toHaveLength(6);
      expect(decodeURIComponent(segments[4] ?? '')).toBe(name);
    }),
  );
});

test.each(['', '.', '..', '\ud800'])('refuses %j, which would lead to another place', (name) => {
  expect(() => wirePath('models', name)).toThrow(expect.objectContaining({ code: 'invalid_input' }));
});
