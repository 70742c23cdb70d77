import type { AffectedDevice, Client, Rollout, RolloutStatus } from '@octomil/sdk';
import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, percentText, print, table, timeText } from '../terminal/output.js';
import { collect, integerFrom, metricDrop, numberFrom, pair, positiveNumber, ratio } from '../terminal/usage.js';

const STATUSES = [
  'draft',
  'active',
  'paused',
  'completed',
  'rolling_back',
  'rolled_back',
  'failed',
] as const satisfies readonly RolloutStatus[];

/** Versions on their way to devices. */
export function register(program: Command, define: DefineCommand): void {
  define(
    program,
    'deploy <model>',
    'bring a published version to devices, in stages',
    (command) =>
      command
        .option('-v, --version <version>', 'semantic version (default: the newest published)')
        .option('-r, --rollout <percent>', 'share of the devices that get it first (default: 10)', numberFrom(0, 100))
        .option('-t, --target <percent>', 'share that gets it in the end (default: 100)', numberFrom(0, 100))
        .option('--increment <percent>', 'what a stage adds (default: 10)', numberFrom(0, 100))
        .option('--every <seconds>', 'time from stage to stage (default: a person advances)', positiveNumber)
        .option('-g, --group <name>', 'only devices of this group; repeat for more', collect)
        .option('--label <name=value>', 'only devices with this label; repeat for more', pair)
        .option('--device <name>', 'only this device; repeat for more', collect)
        .option('--min-devices <n>', 'devices that must run it before the next stage (default: 1)', integerFrom(0))
        .option('--bake <seconds>', 'how long a stage lasts at least', numberFrom(0))
        .option('--max-failure-ratio <x>', 'failed activations among devices, 0 to 1 (default: 0.2)', ratio)
        .option('--max-error-ratio <x>', 'failed inferences, 0 to 1 (default: 0.1)', ratio)
        .option('--max-latency-ms <x>', 'mean time of an inference', positiveNumber)
        .option('--max-latency-ratio <x>', 'the same, against the version before', positiveNumber)
        .option('--max-metric-drop <metric=x>', 'how much accuracy, auc or loss may be worse than before', metricDrop)
        .addOption(
          new Option('--on-breach <what>', 'when one of these does not hold (default: rollback)').choices([
            'rollback',
            'pause',
          ]),
        )
        .option('--reason <text>', 'for the history')
        .addOption(new Option('--draft', 'start it later: octomil rollouts start').conflicts('watch'))
        .option('--watch', 'show it until it ends; 1 is the exit code of one that was rolled back'),
    async (options, model = '') => (await import('./deploy.js')).deploy(options, model),
  );

  const rollouts = program
    .command('rollouts')
    .description('versions on their way to devices; a rollout that is not named is the newest of its model');
  define(
    rollouts,
    'list <model>',
    'list rollouts, newest first',
    (command) =>
      command
        .addOption(new Option('--status <status>', 'only these').choices(STATUSES))
        .option('--limit <n>', 'at most so many', integerFrom(1)),
    async ({ json, status, limit }, model = '') => {
      const rows = await (await client()).rollouts.list({
        modelId: model,
        ...(status === undefined ? {} : { statusFilter: status as RolloutStatus }),
        ...(limit === undefined ? {} : { limit: limit as number }),
      });
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'ID', value: (row) => row.id, align: 'right' },
            { title: 'Version', value: (row) => row.version },
            { title: 'Before', value: (row) => row.previousVersion },
            { title: 'Status', value: (row) => row.status },
            { title: 'Share', value: (row) => percentText(row.rolloutPercentage), align: 'right' },
            { title: 'Target', value: (row) => percentText(row.targetPercentage), align: 'right' },
            { title: 'Next stage', value: (row) => timeText(row.nextStageAt) },
            { title: 'Reason', value: (row) => row.reason },
          ],
          `Nothing was rolled out yet; "octomil deploy ${model}" does.`,
        ),
      );
    },
  );
  define(rollouts, 'show <model> [rollout]', 'show a rollout and how its devices do', none, async (...args) => {
    const [{ json }, model = '', id] = args;
    const rollout = await find(await client(), model, id);
    await print(json, rollout, () => fields(rollout));
  });
  define(rollouts, 'watch <model> [rollout]', 'show a rollout until it has ended', none, async (...args) => {
    const [{ json }, model = '', id] = args;
    const connected = await client();
    const { id: rolloutId } = await find(connected, model, id);
    const { watchRollout } = await import('../terminal/watch-rollout.js');
    return watchRollout(connected, { modelId: model, rolloutId }, json);
  });
  define(rollouts, 'start <model> [rollout]', 'start a draft', none, async ({ json }, model = '', id) => {
    const connected = await client();
    const { id: rolloutId } = await find(connected, model, id, ['draft']);
    await changed(json, await connected.rollouts.start({ modelId: model, rolloutId }));
  });
  define(
    rollouts,
    'advance <model> [rollout]',
    'go to the next stage',
    (command) =>
      command
        .addOption(
          new Option('--increment <percent>', 'add this in place of its own step')
            .argParser(numberFrom(0, 100))
            .conflicts('to'),
        )
        .option('--to <percent>', 'straight to this share', numberFrom(0, 100))
        .option('--reason <text>', 'for the history, with --to'),
    async ({ json, increment, to, reason }, model = '', id) => {
      const connected = await client();
      const at = { modelId: model, rolloutId: (await find(connected, model, id, ['active'])).id };
      const answer =
        to === undefined
          ? await connected.rollouts.advance({
              ...at,
              ...(increment === undefined ? {} : { customIncrement: increment as number }),
            })
          : await connected.rollouts.updatePercentage({ ...at, percentage: to as number, ...reasonOf(reason) });
      await changed(json, answer);
    },
  );
  for (const [action, description, states] of [
    ['pause', 'go no further; devices keep what they have', ['active']],
    ['resume', 'go on with a paused rollout', ['paused']],
    ['rollback', 'bring the version before back to every device', ['active', 'paused', 'completed']],
  ] as const) {
    define(
      rollouts,
      `${action} <model> [rollout]`,
      description,
      (command) => command.option('--reason <text>', 'for the history'),
      async ({ json, reason }, model = '', id) => {
        const connected = await client();
        const { id: rolloutId } = await find(connected, model, id, states);
        await changed(json, await connected.rollouts[action]({ modelId: model, rolloutId, ...reasonOf(reason) }));
      },
    );
  }
  define(rollouts, 'history <model> [rollout]', 'show who changed it, when and why', none, async (...args) => {
    const [{ json }, model = '', id] = args;
    const connected = await client();
    const { id: rolloutId } = await find(connected, model, id);
    const rows = await connected.rollouts.getStatusHistory({ modelId: model, rolloutId });
    await print(json, rows, () =>
      table(rows, [
        { title: 'When', value: (row) => timeText(row.createdAt) },
        { title: 'Who', value: (row) => row.actor },
        { title: 'Status', value: (row) => row.toStatus },
        { title: 'Share', value: (row) => percentText(row.toPercentage), align: 'right' },
        { title: 'Why', value: (row) => row.reason },
      ]),
    );
  });
  define(
    rollouts,
    'devices <model> [rollout]',
    'list the devices of its present stage',
    (command) => command.option('--limit <n>', 'at most so many (default: 100)', integerFrom(1)),
    async ({ json, limit = 100 }, model = '', id) => {
      const connected = await client();
      const { id: rolloutId } = await find(connected, model, id);
      const rows: AffectedDevice[] = [];
      for await (const device of connected.rollouts.affectedDevices({ modelId: model, rolloutId })) {
        if (rows.length === limit) break;
        rows.push(device);
      }
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'Device', value: (row) => row.deviceIdentifier },
            { title: 'Status', value: (row) => row.status },
            { title: 'State', value: (row) => row.state },
            { title: 'Active', value: (row) => row.activeVersion },
            { title: 'Reason', value: (row) => row.reason },
          ],
          'No device is in its stage.',
        ),
      );
    },
  );
  define(
    rollouts,
    'delete <model> <rollout>',
    'delete a draft, or one that has ended',
    (command) => command.option('--force', 'also one that is in force: it is rolled back first'),
    async ({ json, force }, model = '', id = '') => {
      const connected = await client();
      const { id: rolloutId } = await find(connected, model, id);
      await connected.rollouts.delete({ modelId: model, rolloutId, force: force === true });
      await print(json, { rolloutId, deleted: true }, () => `Rollout ${rolloutId} is deleted.`);
    },
  );
}

const none = (): void => undefined;

async function client(): Promise<Client> {
  return (await import('../access/connect.js')).connect();
}

/**
 * The rollout that was named; else the newest in one of the states that the command is for; else the newest, whose state
 * the coordinator then says is wrong.
 */
async function find(
  { rollouts }: Client,
  modelId: string,
  named: string | undefined,
  states: readonly RolloutStatus[] = STATUSES,
): Promise<Rollout> {
  const { OctomilError } = await import('@octomil/shared/errors');
  if (named !== undefined) {
    if (!/^[1-9]\d*$/.test(named) || !Number.isSafeInteger(Number(named))) {
      throw new OctomilError(
        'invalid_input',
        `a rollout is named by its number, which ${JSON.stringify(named)} is not`,
      );
    }
    return rollouts.get({ modelId, rolloutId: Number(named) });
  }
  const all = await rollouts.list({ modelId });
  const found = all.find(({ status }) => states.includes(status)) ?? all[0];
  if (found !== undefined) return rollouts.get({ modelId, rolloutId: found.id });
  throw new OctomilError('not_found', `nothing of ${modelId} was rolled out; "octomil deploy ${modelId}" does`);
}

async function changed(json: unknown, rollout: Rollout): Promise<void> {
  await print(
    json,
    rollout,
    () =>
      `Rollout ${rollout.id} of ${rollout.version} is ${rollout.status} at ${percentText(rollout.rolloutPercentage)}.`,
  );
}

function reasonOf(reason: unknown): { reason?: string } {
  return typeof reason === 'string' ? { reason } : {};
}
