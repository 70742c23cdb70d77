import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, print, table, text } from '../terminal/output.js';
import { integerFrom, marker, pair, positiveNumber, share } from '../terminal/usage.js';

/** Training, and a look at every session and round. */
export function register(program: Command, define: DefineCommand): void {
  define(
    program,
    'train',
    'train a model across the sites of a federation',
    (command) =>
      command
        .requiredOption('--federation <name>', 'who trains together')
        .requiredOption('--model <name>', 'model in the registry')
        .option('--rounds <n>', 'rounds (default: 10)', integerFrom(1))
        .option('--min-updates <n>', 'updates that close a round (default: 1)', integerFrom(1))
        .option('--algorithm <name>', 'fedavg, fedprox, fedavgm, fedadam, fedyogi, fedadagrad or scaffold')
        .option('--algorithm-option <name=value>', "one of the algorithm's numbers; repeat for more", pair)
        .option('--architecture <name or JSON>', 'logistic, mlp, cnn, or an object with its sizes')
        .option('--target <rule>', 'column to learn, or a rule such as "num>0"')
        .option('--data-set <name>', "name of the data in the sites' configuration")
        .option('--missing <column=value>', 'value that means missing; repeat for more', marker)
        .option(
          '--features <which>',
          '"confirmed", or the id of a confirmed proposal (default: by what the sites tell)',
        )
        .option('--hints <file>', 'YAML or JSON: wishes by column, where no proposal was confirmed')
        .option('--epochs <n>', 'passes over its rows that a site makes per round', integerFrom(1))
        .option('--batch-size <n>', 'rows per step, 10 or more', integerFrom(1))
        .option('--learning-rate <x>', 'step size', positiveNumber)
        .option('--optimizer <name>', 'sgd, momentum, adam, …')
        .option('--max-steps <n>', 'steps of a site per round at most', integerFrom(1))
        .option('--class-weights <balanced or JSON>', 'what classes count: "balanced", or JSON such as {"yes": 3}')
        .option(
          '--early-stop <epochs>',
          "end a site's round when its held-out loss has not fallen for so many",
          integerFrom(1),
        )
        .option(
          '--personalization <method or JSON>',
          'what stays at the sites: fedbn, fedper, ditto, or JSON with settings',
        )
        .option('--head-layers <names>', 'layers that stay at the sites (fedper), separated by commas')
        .option('--seed <n>', 'what chance follows from', integerFrom(0))
        .option('--over-selection <x>', 'devices asked per update needed', positiveNumber)
        .option('--deadline <seconds>', 'how long a round may take', positiveNumber)
        .option('--holdout <share>', 'share of rows kept for evaluation', share)
        .option('--entity-column <name>', 'column whose rows stay on the same side of the split')
        .option('--label <name=value>', 'only devices with this label; repeat for more', pair)
        .option('--base-version <version>', 'start from it (default: the latest)')
        .option('--new-version <version>', 'make it (default: the next)')
        .addOption(new Option('--update-format <format>', 'what sites send').choices(['delta', 'weights']))
        .option('--trainer <name>', 'tfjs, echo (proves the plumbing only), or what the sites call code of their own')
        .option('--no-publish', 'leave the new version a draft')
        .option('--dry-run', 'show which sites would take part, and train nothing')
        .option('--detach', 'start it and do not wait'),
    async (options) => (await import('./train.js')).train(options),
  );

  const none = (): void => undefined;
  const sessions = program.command('sessions').description('training sessions');
  define(sessions, 'list', 'list sessions, newest first', none, async ({ json }) => {
    const rows = await (await organization()).listSessions();
    await print(json, rows, () =>
      table(
        rows,
        [
          { title: 'ID', value: (row) => row.sessionId },
          { title: 'Model', value: (row) => text(row['modelName'] ?? row['model'] ?? row.modelId) },
          { title: 'Status', value: (row) => row.status },
          { title: 'Round', value: (row) => progress(row['currentRound'], row['totalRounds']) },
          { title: 'Version', value: (row) => text(row['resultVersion']) },
          { title: 'Reason', value: (row) => row.reason },
        ],
        'Nothing has been trained yet.',
      ),
    );
  });
  define(sessions, 'show <id>', 'show a session', none, async ({ json }, id) => {
    const session = await (await run(id)).session();
    await print(json, session, async () => {
      const { connect } = await import('../access/connect.js');
      const { driftLine } = await import('../terminal/features-view.js');
      // Beside what was asked for: without it, the session is still shown.
      const drift = await (await connect()).features.drift(session.sessionId).catch(() => undefined);
      const line = drift === undefined ? undefined : driftLine(drift);
      const shown = fields(withoutDoubles(session));
      return line === undefined ? shown : `${shown}\n\n${line}`;
    });
  });
  for (const action of ['pause', 'resume', 'cancel'] as const) {
    define(sessions, `${action} <id>`, `${action} a session`, none, async ({ json }, id) => {
      const session = await (await run(id))[action]();
      await print(json, session, () => `Session ${session.sessionId} is ${session.status}.`);
    });
  }

  const rounds = program.command('rounds').description('rounds of a session');
  define(
    rounds,
    'list <session>',
    'list the rounds of a session: who acts next, until when, and why',
    none,
    async ({ json }, id) => {
      const rows = await (await run(id)).rounds();
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'ID', value: (row) => row.roundId },
            { title: 'Round', value: (row) => row.number, align: 'right' },
            { title: 'Try', value: (row) => row.attempt, align: 'right' },
            { title: 'Kind', value: (row) => row.kind },
            { title: 'State', value: (row) => row.state },
            { title: 'Owner', value: (row) => row.owner },
            { title: 'Deadline', value: (row) => row.deadlineAt },
            { title: 'Reason', value: (row) => row.reason },
          ],
          'It has no rounds yet.',
        ),
      );
    },
  );
  define(rounds, 'show <id>', 'show a round', none, async ({ json }, id) => {
    const round = await (await organization()).round(id ?? '');
    await print(json, round, () => fields(round));
  });
  define(rounds, 'retry <id>', 'try a round again with other devices', none, async ({ json }, id) => {
    const round = await (await organization()).retryRound(id ?? '');
    await print(json, round, () => `Round ${round.number} is tried again.`);
  });
  define(rounds, 'abort <id>', 'end a round without a result', none, async ({ json }, id) => {
    const round = await (await organization()).abortRound(id ?? '');
    await print(json, round, () => `Round ${round.number} is ${round.state}.`);
  });
}

async function organization(): Promise<import('@octomil/sdk').Organization> {
  return (await (await import('../access/connect.js')).connect()).organization;
}

async function run(sessionId: string | undefined): Promise<import('@octomil/sdk').TrainingRun> {
  const { openRun } = await import('@octomil/sdk');
  const { connection } = await import('../access/connect.js');
  return openRun(sessionId ?? '', await connection());
}

function progress(done: unknown, total: unknown): string | null {
  return typeof done === 'number' && typeof total === 'number' ? `${done}/${total}` : null;
}

/** What has two names is shown once; what the sites told is for `features show` and `--json`. */
function withoutDoubles(session: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(session).filter(([name]) => !DOUBLES.has(name)));
}

const DOUBLES: ReadonlySet<string> = new Set(['id', 'state', 'totalRounds', 'report']);
