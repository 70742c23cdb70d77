import { afterEach, expect, jest, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { reportFailure } from './failure.js';
import { driftText } from './features-view.js';
import { say } from './out.js';
import { print } from './output.js';
import { plain } from './plain.js';

afterEach(() => {
  jest.restoreAllMocks();
});

/** Sets the title, clears the screen, turns the direction; 9b is an escape sequence's beginning by itself. */
const OBEYED = 'a\u001b]0;owned\u0007\u001b[2J\u009b2J\r\u202eb';

test('nothing that a terminal would obey is left, and lines, tabs and other languages are', () => {
  expect(plain(OBEYED)).toBe('a�]0;owned��[2J�2J��b');
  expect(plain('übung\tمرحبا 😀\nzwei')).toBe('übung\tمرحبا 😀\nzwei');
});

test('what a site wrote is shown without', async () => {
  const shown: string[] = [];
  const write = (text: unknown): boolean => shown.push(String(text)) > 0;
  jest.spyOn(process.stdout, 'write').mockImplementation(write);
  jest.spyOn(process.stderr, 'write').mockImplementation(write);
  const round = {
    roundId: 'r',
    roundNumber: 1,
    reportingSites: 1,
    driftedSites: 1,
    newDriftedSites: 0,
    changedSites: 1,
    sites: { a: { columns: [], warnings: [OBEYED], changed: [OBEYED] } },
  };
  const found = { drifted: true, changed: true, rounds: [round] };
  await print(false, {}, () => driftText({ sessionId: 's', featureSpecHash: null, ...found }));
  reportFailure(new OctomilError('data_mismatch', `site "a": ${OBEYED}`));
  jest.restoreAllMocks();
  expect(shown.join('')).toContain('owned');
  // Tables in a terminal have lines of their own, but no escapes.
  expect(shown.join('')).not.toMatch(/(?!\n)[\p{Cc}\u202e]/u);
});

test('what a model says reaches a pipe as it is, and a terminal without what that would obey', async () => {
  const shown: string[] = [];
  jest.spyOn(process.stdout, 'write').mockImplementation((text: unknown, ...rest: unknown[]): boolean => {
    const written = rest.at(-1);
    if (typeof written === 'function') written();
    return shown.push(String(text)) > 0;
  });
  const { isTTY } = process.stdout;
  try {
    for (const terminal of [false, true]) {
      process.stdout.isTTY = terminal;
      // In pieces, as it comes.
      await say(OBEYED.slice(0, 2));
      await say(OBEYED.slice(2));
    }
  } finally {
    process.stdout.isTTY = isTTY;
  }
  expect(shown.slice(0, 2).join('')).toBe(OBEYED);
  expect(shown.slice(2).join('')).toBe(plain(OBEYED));
});
