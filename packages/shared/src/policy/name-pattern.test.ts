import { expect, test } from '@jest/globals';
import { isNamed } from './name-pattern.js';

test('a star means any characters, also none, as in a regular expression', () => {
  const texts = (letters: string, length: number): string[] =>
    length === 0
      ? ['']
      : texts(letters, length - 1).flatMap((text) => [text, ...[...letters].map((one) => text + one)]);
  const names = [...new Set(texts('ab', 4))];
  for (const pattern of new Set(texts('ab*', 4))) {
    const expected = new RegExp(`^${pattern.replaceAll('*', '.*')}$`);
    const named = names.filter((name) => isNamed([pattern], name));
    expect([pattern, named]).toEqual([pattern, names.filter((name) => expected.test(name))]);
  }
});

test('any pattern, and any of the names, is enough; apart from stars a pattern means itself', () => {
  expect(isNamed(['x', 'risk-*'], 'other', 'risk-7')).toBe(true);
  expect(isNamed(['a.c*'], 'abcd')).toBe(false);
  expect(isNamed([], 'a')).toBe(false);
});

test('many stars against a repetitive name are judged at once', () => {
  const pattern = `${'*a'.repeat(50)}*`;
  expect(isNamed([`${pattern}b`], 'a'.repeat(200))).toBe(false);
  expect(isNamed([pattern], 'a'.repeat(200))).toBe(true);
});
