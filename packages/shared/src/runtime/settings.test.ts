import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { choiceSetting, describeSettings, flagSetting, integerSetting, readSettings, textSetting } from './settings.js';

const definitions = {
  host: textSetting('OCTOMIL_HOST', '127.0.0.1', 'address'),
  port: integerSetting('OCTOMIL_PORT', 8000, 'port', { min: 0, max: 65_535 }),
  insecure: flagSetting('OCTOMIL_INSECURE', 'plaintext'),
  level: choiceSetting('OCTOMIL_LEVEL', 'info', ['info', 'debug'], 'level'),
  database: textSetting('DATABASE_URL', undefined, 'database', { secret: true }),
  pin: { ...integerSetting('OCTOMIL_PIN', 1, 'pin', { min: 0, max: 9 }), secret: true },
};

test('environment before file before default; empty means unset', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-settings-'));
  const file = join(folder, 'octomil.yaml');
  await writeFile(file, 'port: 9000\nhost: 0.0.0.0\nDATABASE_URL: postgres://u:p@h/d\n');
  const values = readSettings(definitions, { OCTOMIL_HOST: '::1', OCTOMIL_LEVEL: '', OCTOMIL_INSECURE: 'yes' }, file);
  expect(values).toEqual({
    host: '::1',
    port: 9000,
    insecure: true,
    level: 'info',
    database: 'postgres://u:p@h/d',
    pin: 1,
  });
  expect(Object.isFrozen(values)).toBe(true);
  expect(describeSettings(definitions, values).join('\n')).not.toContain('u:p');
  await rm(folder, { recursive: true });
});

test('every problem is reported at once, without the value of a secret', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-settings-'));
  const file = join(folder, 'octomil.yaml');
  await writeFile(file, 'prot: 9000\nhost: [1]\n');
  const env = { OCTOMIL_PORT: '70000', OCTOMIL_INSECURE: 'maybe', OCTOMIL_LEVEL: 'loud', OCTOMIL_PIN: '1234' };
  const error = (() => {
    try {
      readSettings(definitions, env, file);
    } catch (thrown) {
      return thrown as { code: string; message: string; details: { problems: string[] } };
    }
    return undefined;
  })();
  expect(error?.code).toBe('config_invalid');
  expect(error?.details.problems).toHaveLength(6);
  expect(error?.message).toContain('OCTOMIL_PORT=70000 must be a whole number from 0 to 65535');
  expect(error?.message).toContain('prot is no setting');
  expect(error?.message).not.toContain('1234');
  await rm(folder, { recursive: true });
});
