import { Command, CommanderError } from 'commander';
import { reportFailure } from './terminal/failure.js';

/** What a command hands to the process: nothing, or an exit code of its own. */
export type Outcome = Promise<number | undefined> | Promise<void>;

/**
 * Runs the command line.
 *
 * @param args without the program's name
 * @returns the exit code: 0 done, 1 failed, 2 asked for in a way that makes no sense, 130 interrupted
 */
export async function runProgram(args: readonly string[]): Promise<number> {
  let exitCode = 0;
  const program = await buildProgram((outcome) => {
    exitCode = outcome ?? 0;
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    return reportFailure(error);
  }
}

async function buildProgram(done: (exitCode: number | undefined) => void): Promise<Command> {
  const program = new Command('octomil')
    .description('Trains one model across hospitals and devices without moving their data')
    .version('0.1.0')
    .showSuggestionAfterError()
    .configureHelp({ sortSubcommands: false })
    .exitOverride()
    // "octomil push --version 1.0.0" is about the model, "octomil --version" about the program.
    .enablePositionalOptions()
    .addHelpText(
      'after',
      '\nEnvironment: OCTOMIL_API_BASE (default http://127.0.0.1:8000/api/v1) and OCTOMIL_API_KEY (edg_…) go before what\n' +
        '"octomil login" keeps. OCTOMIL_DEBUG=1 adds stack traces to errors.\n\nFirst steps: octomil demo',
    );
  // Only descriptions are loaded here; what a command needs is imported by its action.
  const rooms = await Promise.all([
    import('./commands/system.js').then((room) => ['Coordinator and agents:', room] as const),
    import('./commands/training.js').then((room) => ['Training:', room] as const),
    import('./commands/features.js').then((room) => ['Training:', room] as const),
    import('./commands/registry.js').then((room) => ['Models:', room] as const),
    import('./commands/versions.js').then((room) => ['Models:', room] as const),
    import('./commands/rollouts.js').then((room) => ['Rollouts:', room] as const),
    import('./commands/inference.js').then((room) => ['Inference:', room] as const),
    import('./commands/devices.js').then((room) => ['Devices:', room] as const),
    import('./commands/federation.js').then((room) => ['Organizations and access:', room] as const),
    import('./commands/access.js').then((room) => ['Organizations and access:', room] as const),
  ]);
  const define: DefineCommand = (parent, usage, description, configure, action) => {
    // "octomil agent --config FILE" reads better than "octomil agent run --config FILE", as does "octomil audit --config FILE"; both work.
    const command = parent
      .command(usage, { isDefault: usage === 'run' || usage === 'site' })
      .description(description)
      .option('--json', 'print JSON for programs');
    configure(command);
    // Its options reach the action together with those of the commands around it.
    command.action(async (...given: unknown[]) => {
      const positional = given.slice(0, -2) as string[];
      done((await action(command.optsWithGlobals(), ...positional)) ?? undefined);
    });
  };
  for (const [heading, room] of rooms) {
    program.commandsGroup(heading);
    room.register(program, define);
  }
  return program;
}

/** Options as commander gives them; every action checks the ones it reads. */
export type Options = Readonly<Record<string, unknown>>;

/** Adds one command, with `--json`. Its `action` imports what it needs, so that `--help` stays quick. */
export type DefineCommand = (
  parent: Command,
  usage: string,
  description: string,
  configure: (command: Command) => void,
  action: (options: Options, ...positional: string[]) => Outcome,
) => void;
