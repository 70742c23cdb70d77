import type { Command } from 'commander';
import type { DefineCommand } from '../program.js';
import { print, table, text, timeText } from '../terminal/output.js';
import { integerFrom, pair } from '../terminal/usage.js';

/** Keys and enrolment: who may talk to the coordinator, and who did. */
export function register(program: Command, define: DefineCommand): void {
  define(
    program,
    'login',
    'keep an API key for the commands of this user, once the coordinator has taken it',
    (command) =>
      command
        .option('--api-key <key>', 'edg_… (default: asked for, or read from what is piped in)')
        .option('--api-base <url>', 'coordinator (default: OCTOMIL_API_BASE, else this machine)'),
    async (options) => (await import('./login.js')).login(options),
  );
  define(program, 'logout', 'forget that key', none, async (options) => (await import('./login.js')).logout(options));

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
          { title: 'Last used', value: (row) => timeText(row['lastUsedAt']) },
          { title: 'Revoked', value: (row) => timeText(row['revokedAt']) },
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

  const audit = program
    .command('audit')
    .description('who changed what, and from where; what left a site: octomil audit --config agent.yaml');
  define(
    audit,
    'site',
    'show what left a site by its own log, oldest first (also without "site")',
    (command) =>
      command
        .requiredOption('--config <file>', 'agent.yaml')
        .option('--kind <kind>', 'update, statistics, evaluation, site_summary, …')
        .option('--federation <name>', 'for whom')
        .option('--model <name>', 'of which model')
        .option('--data-set <name>', 'of which data')
        .option('--since <time>', 'from then on')
        .option('--limit <n>', 'the newest ones', integerFrom(1)),
    async (options) => (await import('./agent-site.js')).audit(options),
  );
  define(
    audit,
    'list',
    'list changes, newest first',
    (command) =>
      command
        .option('--actor <who>', 'only of this key, device, or coordinator')
        .option('--action <name>', 'only of this kind, such as rollout.rolled_back')
        .option('--resource <name>', 'only of this')
        .option('--since <time>', 'such as 2026-01-31T12:00:00Z')
        .option('--until <time>')
        .option('--limit <n>', 'at most so many', integerFrom(1), 100),
    async ({ json, limit, actor, action, resource, since, until }) => {
      const { auditLog } = await client();
      const rows: import('@octomil/sdk').AuditEntry[] = [];
      const filter = Object.fromEntries(
        Object.entries({ actor, action, resource, since, until }).filter(([, value]) => value !== undefined),
      );
      for await (const entry of auditLog.entries(filter)) {
        rows.push(entry);
        if (rows.length === limit) break;
      }
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'When', value: (row) => timeText(row.createdAt) },
            { title: 'Who', value: (row) => row.actor },
            { title: 'What', value: (row) => row.action },
            { title: 'Of', value: (row) => row.resource },
            { title: 'From', value: (row) => row.remoteAddress },
          ],
          'Nothing was changed.',
        ),
      );
    },
  );
}

const none = (): void => undefined;

async function client(): Promise<import('@octomil/sdk').Client> {
  return (await import('../access/connect.js')).connect();
}

async function organization(): Promise<import('@octomil/sdk').Organization> {
  return (await client()).organization;
}

function list(value: unknown): string | null {
  return Array.isArray(value) ? value.join(' ') : null;
}
