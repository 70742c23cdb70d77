import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { collect, marker, pair } from '../terminal/usage.js';

/** How columns become numbers: proposed, shown, edited and confirmed before training uses it. */
export function register(program: Command, define: DefineCommand): void {
  const features = program.command('features').description('how columns become numbers: propose, look, confirm');
  define(
    features,
    'propose',
    'let the sites describe their columns and propose how they become numbers',
    (command) =>
      command
        .requiredOption('--model <name>', 'model in the registry')
        .requiredOption('--federation <name>', 'who is asked')
        .option('--target <rule>', 'column to learn, or a rule such as "num>0" (default: the model\'s)')
        .option('--hints <file>', 'YAML or JSON: wishes by column')
        .option('--missing <column=value>', 'value that means missing; repeat for more', marker)
        .option('--exclude <column>', 'leave it out; repeat for more', collect)
        .option('--data-set <name>', "name of the data in the sites' configuration")
        .option('--architecture <name>', 'cnn for images in columns')
        .option('--label <name=value>', 'only devices with this label; repeat for more', pair)
        .option('--out <file>', 'write the proposal as JSON, to edit and confirm'),
    async (options) => (await import('./features-actions.js')).propose(options),
  );
  define(
    features,
    'list',
    'list proposals, newest first',
    (command) =>
      command
        .option('--model <name>', 'only of this model')
        .option('--federation <name>', 'only of this federation')
        .option('--target <rule>', 'only for this target')
        .addOption(
          new Option('--state <state>', 'only these').choices(['proposed', 'confirmed', 'superseded', 'rejected']),
        ),
    async (options) => (await import('./features-actions.js')).list(options),
  );
  define(
    features,
    'show <id>',
    'show a proposal: columns, where they are missing, what is left out and why',
    (command) => command.option('--out <file>', 'write it as JSON, to edit and confirm'),
    async (options, id = '') => (await import('./features-actions.js')).show(options, id),
  );
  define(
    features,
    'confirm <proposal>',
    'confirm a proposal, by its id or by the file that "propose --out" wrote and you edited',
    () => undefined,
    async (options, which = '') => (await import('./features-actions.js')).confirm(options, which),
  );
  define(
    features,
    'reject <id>',
    'reject a proposal, or take its confirmation back',
    (command) => command.option('--reason <text>', 'why'),
    async (options, id = '') => (await import('./features-actions.js')).reject(options, id),
  );
  define(
    features,
    'drift <session>',
    "show where sites' rows are far from what the features were made of, round by round",
    () => undefined,
    async (options, session = '') => (await import('./features-actions.js')).drift(options, session),
  );
}
