import type { Command } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, print, table } from '../terminal/output.js';
import { integerFrom, pair } from '../terminal/usage.js';

/** Keys, enrolment and devices: who may talk to the coordinator. */
export function register(program: Command, define: DefineCommand): void {
  const keys = program.command('keys').description('API keys of the organization');
  define(
    keys,
    'create <name>',
    'make a key; it is shown once',
    (command) => command.option('--scope <scope...>', 'what it may do, such as models:read (default: everything)'),
    async ({ json, scope }, name) => {
      const scopes = Array.isArray(scope) ? (scope as string[]) : undefined;
      const key = await (await organization()).createKey({ name: name ?? '', ...(scopes ? { scopes } : {}) });
      await print(json, key, () => `${String(key['key'])}\n\nKeep it now: it is not shown again.`);
    },
  );
  define(keys, 'list', 'list keys, without the keys themselves', none, async ({ json }) => {
    const rows = await (await organization()).listKeys();
    await print(json, rows, () =>
      table(
        rows,
        [
          { title: 'ID', value: (row) => text(row['id']) },
          { title: 'Name', value: (row) => text(row['name']) },
          { title: 'Begins with', value: (row) => text(row['prefix']) },
          { title: 'Scopes', value: (row) => list(row['scopes']) },
          { title: 'Last used', value: (row) => text(row['lastUsedAt']) },
          { title: 'Revoked', value: (row) => text(row['revokedAt']) },
        ],
        'There are no keys.',
      ),
    );
  });
  define(keys, 'revoke <id>', 'stop a key from working', none, async ({ json }, id) => {
    const row = await (await organization()).revokeKey(id ?? '');
    await print(json, { id, ...row }, () => `Key ${id} is revoked.`);
  });
  define(keys, 'rotate <id>', 'make a second key in place of this one', none, async ({ json }, id) => {
    const row = await (await organization()).rotateKey(id ?? '');
    await print(
      json,
      row,
      () => `${String(row['key'])}\n\nBoth keys work; "octomil keys revoke ${id}" ends the old one.`,
    );
  });

  define(
    program,
    'enroll',
    'make a one-time token that enrols one device, and a configuration to start from',
    (command) =>
      command
        .option('--device <name>', 'identifier of the device', 'hospital-001')
        .option('--label <name=value>', 'label of the device; repeat for more', pair)
        .option('--expires <seconds>', 'how long the token may be used', integerFrom(1)),
    async (options) => {
      const { enroll } = await import('./enroll.js');
      await enroll(options);
    },
  );

  const devices = program.command('devices').description('enrolled devices');
  define(devices, 'list', 'list devices', none, async ({ json }) => {
    const rows = await (await organization()).listDevices();
    await print(json, rows, () =>
      table(
        rows,
        [
          { title: 'ID', value: (row) => text(row['id']) },
          { title: 'Identifier', value: (row) => text(row['deviceIdentifier']) },
          { title: 'Status', value: (row) => text(row['status']) },
          { title: 'Data sets', value: (row) => dataSets(row['dataSets']) },
          { title: 'Labels', value: (row) => pairs(row['labels']) },
          { title: 'Last seen', value: (row) => text(row['lastSeenAt']) },
        ],
        'No device is enrolled; "octomil enroll" makes a token for one.',
      ),
    );
  });
  define(devices, 'show <id>', 'show a device', none, async ({ json }, id) => {
    const row = await (await organization()).device(id ?? '');
    await print(json, row, () => fields(row));
  });
  define(devices, 'revoke <id>', "end a device's credential", none, async ({ json }, id) => {
    const row = await (await organization()).revokeDevice(id ?? '');
    await print(json, { id, ...row }, () => `Device ${id} is revoked; it cannot connect any more.`);
  });
}

const none = (): void => undefined;

async function organization(): Promise<import('@octomil/sdk').Organization> {
  const { Organization } = await import('@octomil/sdk');
  return new Organization();
}

function text(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}

function list(value: unknown): string | null {
  return Array.isArray(value) ? value.join(' ') : null;
}

function dataSets(value: unknown): string | null {
  if (!Array.isArray(value)) return null;
  return value
    .map((set: Record<string, unknown>) => `${set['name']} (${set['problem'] ?? `${set['row_count']} rows`})`)
    .join(', ');
}

function pairs(value: unknown): string | null {
  if (typeof value !== 'object' || value === null) return null;
  return Object.entries(value)
    .map(([name, inner]) => `${name}=${String(inner)}`)
    .join(' ');
}
