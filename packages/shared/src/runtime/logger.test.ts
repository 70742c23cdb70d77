import { expect, test } from '@jest/globals';
import { createLogger } from './logger.js';

test('secrets do not reach the log, at the top or one level down', () => {
  const lines: string[] = [];
  const logger = createLogger('agent', 'info', { write: (line: string) => void lines.push(line) });
  logger.info({ credential: 'odc_secret', headers: { authorization: 'Bearer edg_secret' }, round: 3 }, 'connected');
  logger.debug({}, 'below the level');
  expect(lines).toHaveLength(1);
  expect(lines[0]).not.toContain('secret');
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({ name: 'agent', round: 3, msg: 'connected' });
});

test('the password of a refused Redis login does not reach the log', () => {
  const lines: string[] = [];
  const logger = createLogger('coordinator', 'info', { write: (line: string) => void lines.push(line) });
  const command = { name: 'auth', args: ['user', 'secret'] };
  logger.warn({ error: Object.assign(new TypeError('WRONGPASS'), { command }) }, 'a job queue met an error');
  expect(lines[0]).toContain('WRONGPASS');
  expect(lines[0]).not.toContain('secret');
});
