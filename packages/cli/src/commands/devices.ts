import type { Command } from 'commander';
import { Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, pairsText, print, table, text, timeText } from '../terminal/output.js';
import { integerFrom, labelChange, pair } from '../terminal/usage.js';

/** Devices, and groups of them. */
export function register(program: Command, define: DefineCommand): void {
  const devices = program.command('devices').description('devices; named by id or identifier');
  define(
    devices,
    'list',
    'list devices, newest first',
    (command) =>
      command
        .addOption(new Option('--status <status>', 'only these').choices(['online', 'offline', 'revoked']))
        .option('-g, --group <name>', 'only of this group')
        .option('--label <name=value>', 'only with this label; repeat for more', pair)
        .option('--search <text>', 'only those whose identifier begins so')
        .option('--limit <n>', 'at most so many (default: 1000)', integerFrom(1)),
    async ({ json, status, group, label, search, limit = 1000 }) => {
      const rows = await (await client()).devices.list({
        limit: limit as number,
        ...(status === undefined ? {} : { status: status as 'online' }),
        ...(group === undefined ? {} : { group: String(group) }),
        ...(label === undefined ? {} : { labels: label as Record<string, string> }),
        ...(search === undefined ? {} : { search: String(search) }),
      });
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'ID', value: (row) => row.id },
            { title: 'Identifier', value: (row) => row.deviceIdentifier },
            { title: 'Status', value: (row) => row.status },
            { title: 'Data sets', value: (row) => dataSets(row['dataSets']) },
            { title: 'Labels', value: (row) => pairsText(row.labels) },
            { title: 'Last seen', value: (row) => timeText(row.lastSeenAt) },
          ],
          'No such device is there; "octomil enroll" makes a token for one.',
        ),
      );
    },
  );
  define(devices, 'show <device>', 'show a device, and the versions that it runs', none, async ({ json }, device) => {
    const found = await (await client()).devices.get({ deviceId: device ?? '' });
    await print(json, found, async () => {
      const { models, ...rest } = found;
      const rows = Array.isArray(models) ? (models as Record<string, unknown>[]) : [];
      const running = await table(
        rows,
        [
          { title: 'Model', value: (row) => text(row['model_name']) },
          { title: 'Active', value: (row) => text(row['active_version']) },
          { title: 'To run', value: (row) => text(row['version']) },
          { title: 'State', value: (row) => text(row['state']) },
          { title: 'Before', value: (row) => text(row['previous_version']) },
          { title: 'Reason', value: (row) => text(row['reason']) },
          { title: 'Reported', value: (row) => timeText(row['reported_at']) },
        ],
        'No model was rolled out to it.',
      );
      return `${fields(rest)}\n\n${running}`;
    });
  });
  define(
    devices,
    'label <device> <labels...>',
    'set labels (name=value) or take them away (name-)',
    none,
    async ({ json }, device = '', ...words) => {
      const labels = Object.assign({}, ...words.flat().map(labelChange)) as Record<string, string | null>;
      const changed = await (await client()).devices.setLabels({ deviceId: device, labels });
      await print(json, changed, () => `${changed.deviceIdentifier}  ${pairsText(changed.labels)}`.trimEnd());
    },
  );
  define(devices, 'revoke <device>', "end a device's credential and tokens", none, async ({ json }, device = '') => {
    const revoked = await (await client()).devices.revoke({ deviceId: device });
    await print(json, revoked, () => `Device ${device} is revoked; it cannot connect any more.`);
  });

  const groups = program.command('groups').description('groups of devices, for rollouts; named by name or id');
  define(groups, 'list', 'list groups by name', none, async ({ json }) => {
    const rows = await (await client()).groups.list();
    await print(json, rows, () =>
      table(
        rows,
        [
          { title: 'ID', value: (row) => row.id },
          { title: 'Name', value: (row) => row.name },
          { title: 'Devices', value: (row) => text(row['deviceCount']), align: 'right' },
          { title: 'Description', value: (row) => row.description },
        ],
        'There are no groups; "octomil groups create NAME" makes one.',
      ),
    );
  });
  define(
    groups,
    'create <name>',
    'make a group',
    (command) => command.option('-d, --description <text>'),
    async ({ json, description }, name = '') => {
      const made = await (await client()).groups.create({
        name,
        ...(description === undefined ? {} : { description: String(description) }),
      });
      await print(json, made, () => `${made.name}  ${made.id}`);
    },
  );
  define(groups, 'show <group>', 'show a group and its devices', none, async ({ json }, name = '') => {
    const connected = await client();
    const group = await connected.groups.get({ group: name });
    const members: import('@octomil/sdk').Device[] = [];
    for await (const device of connected.groups.devices({ group: name })) members.push(device);
    await print(json, { ...group, devices: members }, async () => {
      const rows = await table(
        members,
        [
          { title: 'ID', value: (row) => row.id },
          { title: 'Identifier', value: (row) => row.deviceIdentifier },
          { title: 'Status', value: (row) => row.status },
        ],
        'No device is in it.',
      );
      return `${fields(group)}\n\n${rows}`;
    });
  });
  for (const [action, description, done] of [
    ['add', 'add devices to a group: all of them or none', 'are in'],
    ['remove', 'take devices out of a group', 'are not in'],
  ] as const) {
    define(groups, `${action} <group> <devices...>`, description, none, async ({ json }, name = '', ...given) => {
      const names = given.flat();
      const changed = await (await client()).groups[`${action}Devices`]({ group: name, devices: names });
      await print(
        json,
        changed,
        () => `${names.join(', ')} ${names.length === 1 ? done.replace('are', 'is') : done} ${changed.name}.`,
      );
    });
  }
  define(groups, 'delete <group>', 'delete a group; its devices stay', none, async ({ json }, name = '') => {
    await (await client()).groups.delete({ group: name });
    await print(json, { group: name, deleted: true }, () => `Group ${name} is deleted.`);
  });
}

const none = (): void => undefined;

async function client(): Promise<import('@octomil/sdk').Client> {
  return (await import('../access/connect.js')).connect();
}

function dataSets(value: unknown): string | null {
  if (!Array.isArray(value)) return null;
  return value
    .map((set: Record<string, unknown>) => `${set['name']} (${set['problem'] ?? `${set['row_count']} rows`})`)
    .join(', ');
}
