import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { LineSplitter, MAX_LINE_BYTES } from './line-splitter.js';

test('lines are the same however the bytes are cut, inside characters too', () => {
  const text = fc.array(fc.string({ unit: 'binary' }).map((line) => line.replaceAll('\n', '')));
  fc.assert(
    fc.property(text, fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }), (lines, sizes) => {
      const bytes = Buffer.from(`${lines.map((line) => `${line}\n`).join('')}rest é`);
      const splitter = new LineSplitter();
      const read: string[] = [];
      for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
        const size = sizes[turn % sizes.length] ?? 1;
        read.push(...splitter.push(bytes.subarray(at, at + size)));
        at += size;
      }
      expect(read).toEqual(lines.map((line) => Buffer.from(line).toString()));
      expect(splitter.rest()).toBe('rest é');
    }),
  );
});

test('a line without an end is given up at its limit, and not before', () => {
  const splitter = new LineSplitter();
  expect(splitter.push(Buffer.alloc(MAX_LINE_BYTES, 'x'))).toEqual([]);
  expect(() => splitter.push(Buffer.from('x'))).toThrow(/1048576 bytes/);
});
