import { expect, test } from '@jest/globals';
import { readAnyJson, readJson, readProblem } from './wire-fields.js';

test('JSON that no column or stack would take is refused by its field', () => {
  expect(readJson('{"loss":1e999,"name":"\\u0000a"}', 'metrics_json')).toEqual({ loss: Infinity, name: 'a' });
  expect(() => readJson('{"drift":"\\ud83d"}', 'metrics_json')).toThrow(
    /invalid_input.*metrics_json holds half a surrogate/,
  );
  expect(() => readJson('{"\\ud83d":1}', 'metrics_json')).toThrow(/invalid_input/);
  const deep = `{"drift":${'['.repeat(50_000)}${']'.repeat(50_000)}}`;
  expect(() => readJson(deep, 'metrics_json')).toThrow(/invalid_input.*metrics_json nests deeper than 100/);
  expect(() => readAnyJson(deep.replace('drift', '\\u0000'), 'report_json')).toThrow(/invalid_input/);
});

test('a text is cut between characters', () => {
  const { message } = readProblem({ code: 'internal', message: `${'x'.repeat(1_999)}😀` } as never);
  expect(message.isWellFormed()).toBe(true);
  expect(message.startsWith('x'.repeat(1_999))).toBe(true);
});
