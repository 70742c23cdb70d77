import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { AGENT_VERSION } from './version.js';

test("is the package's version", () => {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  expect(AGENT_VERSION).toBe(version);
});
