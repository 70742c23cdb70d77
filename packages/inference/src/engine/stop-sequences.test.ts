import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { StopSequences } from './stop-sequences.js';
import { TokenText } from './token-text.js';

const few = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 });

test('a text in pieces ends where the whole one would, and no part of a stop sequence is ever said', () => {
  fc.assert(
    fc.property(fc.array(few, { maxLength: 12 }), fc.array(few, { maxLength: 3 }), (pieces, stops) => {
      const whole = pieces.join('');
      const found = stops.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0);
      const detector = new StopSequences(stops);
      let said = '';
      let stopped = false;
      for (const piece of pieces) {
        const next = detector.add(piece);
        said += next.text;
        stopped = next.stopped;
        if (stopped) break;
      }
      if (!stopped) said += detector.end();
      expect(stopped).toBe(found.length > 0);
      // The earliest that had come by then: one that ends later may begin before it.
      if (!stopped) expect(said).toBe(whole);
      else expect(stops.some((stop) => whole.startsWith(said + stop))).toBe(true);
      expect(stops.some((stop) => said.includes(stop))).toBe(false);
    }),
  );
});

test('characters that several tokens spell are said whole', () => {
  const bytes = [...Buffer.from('a€😀b')];
  const text = new TokenText((tokens) => Buffer.from(tokens).toString('utf8'));
  const said = bytes.map((byte) => text.add(byte));
  expect(said.filter((piece) => piece !== '')).toEqual(['a', '€', '😀', 'b']);
  expect(text.end()).toBe('');
  const broken = new TokenText((tokens) => Buffer.from(tokens).toString('utf8'));
  expect(broken.add(0xe2) + broken.add(0x82) + broken.end()).toBe('\uFFFD');
});
