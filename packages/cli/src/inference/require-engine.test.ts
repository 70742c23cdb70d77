import { expect, test } from '@jest/globals';
import { requireEngine } from './require-engine.js';

test('where the engine is missing, it is said how to install it', () => {
  const resolve = (name: string): never => {
    throw Object.assign(new TypeError(`Cannot find ${name}`), { code: 'MODULE_NOT_FOUND' });
  };
  expect(() => requireEngine(resolve)).toThrow(/npm install node-llama-cpp/);
  expect(() => requireEngine(() => 'there')).not.toThrow();
});
