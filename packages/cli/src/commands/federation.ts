import type { Client, Federation, Listed } from '@octomil/sdk';
import type { Command } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, print, table, text, timeText } from '../terminal/output.js';
import { collect } from '../terminal/usage.js';

/** Organizations that train together. */
export function register(program: Command, define: DefineCommand): void {
  const federation = program
    .command('federation')
    .description('organizations that train together; named by name, or by id where two have one name');
  define(
    federation,
    'create <name>',
    'make a federation',
    (command) => command.option('-d, --description <text>'),
    async ({ json, description }, name = '') => {
      const made = await (await client()).createFederation({
        name,
        ...(description === undefined ? {} : { description: String(description) }),
      });
      await print(json, made, () => `${String(made['name'])}  ${String(made['id'])}`);
    },
  );
  define(
    federation,
    'list',
    'list federations: owned ones, then joined ones',
    (command) => command.option('--invited', 'invitations that wait for an answer, instead'),
    async ({ json, invited }) => {
      const rows = await (await client()).federations(invited === true ? { status: 'invited' } : {});
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'ID', value: (row) => text(row['id']) },
            { title: 'Name', value: (row) => text(row['name']) },
            { title: 'Membership', value: (row) => text(row['membership']) },
            { title: 'Made', value: (row) => timeText(row['createdAt']) },
          ],
          invited === true ? 'No invitation waits.' : 'There are none; "octomil federation create NAME" makes one.',
        ),
      );
    },
  );
  define(federation, 'show <federation>', 'show a federation, and the models shared in it', none, async (...args) => {
    const [{ json }, name = ''] = args;
    const { row, opened } = await open(name);
    const models = row['membership'] === 'invited' ? [] : await opened.models();
    await print(json, { ...row, models }, async () => {
      const rows = await table(
        models,
        [
          { title: 'Model', value: (model) => model.name },
          { title: 'ID', value: (model) => model.id },
          { title: 'Shared by', value: (model) => text(model['orgId']) },
        ],
        'No model is shared in it.',
      );
      return `${fields(row)}\n\n${rows}`;
    });
  });
  define(
    federation,
    'invite <federation>',
    'ask organizations to take part: all of them or none',
    (command) => command.requiredOption('--org <id>', 'organization; repeat for more', collect),
    async ({ json, org }, name = '') => {
      const { row, opened } = await open(name);
      const invited = await opened.invite({ orgIds: org as string[] });
      await print(json, invited, () => `Invited into ${String(row['name'])}: ${(org as string[]).join(', ')}.`);
    },
  );
  define(federation, 'join <federation>', 'take up an invitation', none, async ({ json }, name = '') => {
    const { row, opened } = await open(name);
    const member = await opened.join();
    await print(json, member, () => `Joined ${String(row['name'])}.`);
  });
  define(federation, 'members <federation>', 'list who takes part', none, async ({ json }, name = '') => {
    const members = await (await open(name)).opened.members();
    await print(json, members, () =>
      table(members, [
        { title: 'Organization', value: (row) => row.orgId },
        { title: 'Status', value: (row) => row.status },
        { title: 'Joined', value: (row) => timeText(row.joinedAt) },
      ]),
    );
  });
  for (const [action, description, done] of [
    ['share', 'let the other members read a model and its versions', 'is shared with'],
    ['unshare', 'share a model no longer', 'is no longer shared with'],
  ] as const) {
    define(
      federation,
      `${action} <model>`,
      description,
      (command) => command.requiredOption('-f, --federation <federation>', 'with whom'),
      async ({ json, federation: name }, model = '') => {
        const { row, opened } = await open(String(name));
        await opened[`${action}Model`]({ model });
        const answer = { federationId: row['id'], model, shared: action === 'share' };
        await print(json, answer, () => `${model} ${done} ${String(row['name'])}.`);
      },
    );
  }
  define(
    federation,
    'leave <federation>',
    'leave it, or turn an invitation down',
    none,
    async ({ json }, name = '') => {
      const { row, opened } = await open(name);
      await opened.leave();
      await print(json, { federationId: row['id'], status: 'left' }, () => `Left ${String(row['name'])}.`);
    },
  );
}

const none = (): void => undefined;

async function client(): Promise<Client> {
  return (await import('../access/connect.js')).connect();
}

/** One that exists, of ours or one that we are invited to: a name that was mistyped must not make another. */
async function open(named: string): Promise<{ row: Listed; opened: Federation }> {
  const connected = await client();
  const { OctomilError } = await import('@octomil/shared/errors');
  const known = [...(await connected.federations()), ...(await connected.federations({ status: 'invited' }))];
  const byId = known.filter((row) => row['id'] === named);
  const [row, ...others] = byId.length > 0 ? byId : known.filter((each) => each['name'] === named);
  if (row === undefined) {
    const names = known.map((each) => String(each['name'])).join(', ') || 'none';
    throw new OctomilError('not_found', `there is no federation ${named} here; there are: ${names}`);
  }
  if (others.length > 0) {
    const ids = [row, ...others].map((each) => String(each['id'])).join(', ');
    throw new OctomilError('invalid_input', `several federations are named ${named}; name one by its id: ${ids}`);
  }
  return { row, opened: connected.federation({ id: String(row['id']) }) };
}
