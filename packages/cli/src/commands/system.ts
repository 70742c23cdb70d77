import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { integerFrom, positiveNumber } from '../terminal/usage.js';

/** Processes that run: coordinator, agent, and the demo that starts both. */
export function register(program: Command, define: DefineCommand): void {
  define(
    program,
    'demo',
    'train across hospitals on this machine: coordinator and agents as processes of their own',
    (command) =>
      command
        .option(
          '--data <place>',
          'one CSV or Parquet file per site, also s3://, gs:// or az:// (default: four generated hospitals)',
        )
        .option('--target <rule>', 'what to learn, such as "num>0" (with --data)')
        .addOption(new Option('--model <name>', 'architecture').choices(['logistic', 'mlp']))
        .option('--algorithm <name>', 'fedavg, fedprox, fedavgm, fedadam, fedyogi, fedadagrad or scaffold', 'fedavg')
        .option('--rounds <n>', 'rounds', integerFrom(1))
        .option('--local-epochs <n>', 'passes over its rows that a site makes per round', integerFrom(1))
        .option('--learning-rate <x>', 'step size at the sites', positiveNumber)
        .option('--seed <n>', 'data, splits and weights follow from it', integerFrom(0), 1)
        .option('--out <file>', 'write the results as JSON'),
    async (options) => (await import('../demo/demo-command.js')).demo(options),
  );
  define(
    program,
    'up',
    'start a coordinator here, on embedded stores unless DATABASE_URL and the like say otherwise',
    (command) =>
      command
        .option('--data-dir <folder>', 'where it keeps everything (OCTOMIL_DATA_DIR)')
        .option('--host <address>', 'where it listens (OCTOMIL_HOST)')
        .option('--rest-port <port>', 'REST; 0 for any (OCTOMIL_REST_PORT)', integerFrom(0))
        .option('--grpc-port <port>', 'agents; 0 for any (OCTOMIL_GRPC_PORT)', integerFrom(0)),
    async (options) => (await import('./up.js')).up(options),
  );
  const agent = program
    .command('agent')
    .description('run the agent of a site, also without "run": octomil agent --config agent.yaml');
  define(
    agent,
    'run',
    'run until stopped (also without "run")',
    (command) => command.requiredOption('--config <file>', 'agent.yaml'),
    async (options) => (await import('./agent.js')).runAgent(options),
  );
  define(
    agent,
    'doctor',
    'check DNS, TLS, proxy, clock, disk and data sources',
    (command) => command.requiredOption('--config <file>', 'agent.yaml'),
    async (options) => (await import('./agent.js')).doctor(options),
  );
  define(
    agent,
    'activate <model>',
    'activate the version of a model (name or id) that waits for it here',
    (command) => command.requiredOption('--config <file>', 'agent.yaml'),
    async (options, model = '') => (await import('./agent.js')).activate(options, model),
  );
  const ofAgent = (command: Command): Command => command.requiredOption('--config <file>', 'agent.yaml');
  define(
    agent,
    'trainers',
    "show the site's own training code with its digests, for the policy's code.allow",
    ofAgent,
    async (options) => (await import('./agent-site.js')).trainers(options),
  );
  define(
    agent,
    'dry-run',
    'do a round here alone and print exactly what would leave',
    (command) =>
      ofAgent(command)
        .requiredOption('--federation <name>', 'who would ask')
        .requiredOption('--model <name>', 'for which model')
        .requiredOption('--target <rule>', 'what would be learned, such as "num>0"')
        .option('--data-set <name>', 'on which data (default: the only one)')
        .option('--architecture <name>', 'logistic or mlp'),
    async (options) => (await import('./agent-site.js')).dryRun(options),
  );
  const personal = agent.command('personal').description("what of models is this site's own");
  define(personal, 'list', 'list the personal models of this site', ofAgent, async (options) =>
    (await import('./agent-personal.js')).list(options),
  );
  define(
    personal,
    'export <id>',
    'write a personal model as model.json and weights.safetensors, for predictions here',
    (command) =>
      ofAgent(command)
        .requiredOption('--output <folder>', 'a new or empty folder')
        .option('--weights <file>', 'weights of the version that the rest is taken from (fedbn, fedper)'),
    async (options, id = '') => (await import('./agent-personal.js')).exportOne(options, id),
  );
  define(
    personal,
    'remove <id>',
    'forget one; the next round starts from its base',
    ofAgent,
    async (options, id = '') => (await import('./agent-personal.js')).remove(options, id),
  );
  define(agent, 'pause', 'refuse every assignment from now on, also while the agent runs', ofAgent, async (options) =>
    (await import('./agent-site.js')).pause(options, true),
  );
  define(agent, 'resume', 'take assignments again', ofAgent, async (options) =>
    (await import('./agent-site.js')).pause(options, false),
  );
  define(
    agent,
    'unenrol',
    'forget the credential, bases and updates of this site; the audit log stays (stop the agent first)',
    (command) => ofAgent(command).option('--personal', 'its personal models as well'),
    async (options) => (await import('./agent-site.js')).unenrol(options),
  );
  const policy = program.command('policy').description('what a site allows');
  define(
    policy,
    'check',
    'explain how the site would answer',
    (command) =>
      ofAgent(command)
        .requiredOption('--federation <name>', 'who asks')
        .requiredOption('--model <name>', 'for which model')
        .option('--data-set <name>', 'on which data')
        .option('--column <name...>', 'which columns')
        .option('--trainer <name>', 'with which trainer (default: tfjs)'),
    async (options) => (await import('./agent-site.js')).policyCheck(options),
  );
  define(
    program,
    'config',
    'print what a coordinator, or with --agent an agent, would run with, without secrets',
    (command) => command.option('--agent <file>', 'agent.yaml'),
    async (options) => (await import('./config.js')).showConfig(options),
  );
  const ofCoordinator = (command: Command): Command =>
    command.option('--data-dir <folder>', 'of the embedded stores (OCTOMIL_DATA_DIR)');
  define(
    program,
    'backup <folder>',
    'copy all rows and files of a coordinator into a new folder (embedded stores: stop it first)',
    ofCoordinator,
    async (options, path = '') => (await import('./backup.js')).backup(options, path),
  );
  define(
    program,
    'restore <folder>',
    'fill the empty stores of a coordinator from a backup, also on another kind of database',
    ofCoordinator,
    async (options, path = '') => (await import('./backup.js')).restore(options, path),
  );
}
