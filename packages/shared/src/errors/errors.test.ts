import { expect, test } from '@jest/globals';
import { ERROR_CODES, isErrorCode, OctomilError, toOctomilError } from './index.js';

test('an error that crosses a wire keeps its code, message and details, and leaves its cause behind', () => {
  const cause = new TypeError('select * from patients');
  const sent = new OctomilError('too_large', 'part 3 has 9 bytes; the limit is 8', { cause, details: { limit: 8 } });
  const wire = JSON.stringify(sent.toBody());
  expect(wire).not.toContain('patients');
  const received = OctomilError.fromBody(JSON.parse(wire));
  expect(received).toMatchObject({ code: 'too_large', reason: sent.reason, details: { limit: 8 } });
  expect(received.message).toBe('[too_large] part 3 has 9 bytes; the limit is 8');
});

test('a code that this version does not know becomes `unknown`, also when it is the name of an object member', () => {
  for (const code of ['no_such_code', 'toString', '__proto__', 7, undefined]) {
    expect(isErrorCode(code)).toBe(false);
    expect(OctomilError.fromBody({ code, message: 'm' }).code).toBe('unknown');
  }
});

test('system errors are named once; what is unexpected does not show its message', () => {
  const system = (code: string): Error => Object.assign(new Error(`${code}: /var/lib`), { code });
  expect(toOctomilError(system('ENOSPC')).code).toBe('insufficient_storage');
  expect(toOctomilError(system('ECONNREFUSED')).code).toBe('network_unavailable');
  expect(toOctomilError(system('EADDRINUSE')).code).toBe('port_in_use');
  const unexpected = toOctomilError(new Error('password=hunter2'));
  expect(unexpected.code).toBe('internal');
  expect(JSON.stringify(unexpected.toBody())).not.toContain('hunter2');
  expect(toOctomilError('nonsense', 'data_unreadable').reason).toBe('nonsense');
});

test('every code has a client or server status', () => {
  for (const { http } of Object.values(ERROR_CODES)) {
    expect(http).toBeGreaterThanOrEqual(400);
    expect(http).toBeLessThan(600);
  }
});
