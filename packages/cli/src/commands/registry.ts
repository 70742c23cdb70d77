import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, print, table, text, timeText } from '../terminal/output.js';
import { integerFrom } from '../terminal/usage.js';

const FORMATS_MADE_HERE = [
  'safetensors',
  'pytorch',
  'onnx',
  'npz',
] as const satisfies readonly import('@octomil/shared/formats').WritableFormat[];

/** Models, and their files on the way in and out. */
export function register(program: Command, define: DefineCommand): void {
  define(
    program,
    'push [path]',
    'make a version of a file, or of the model files in a folder (default: this one)',
    (command) =>
      command
        .requiredOption('-m, --model <name>', 'model; made when there is none')
        .option('-v, --version <version>', 'semantic version (default: the next)')
        .option('-d, --description <text>')
        .option('-f, --formats <list>', 'formats to make of it, such as onnx,tflite: here where it can be done')
        .option('--framework <name>', 'of a model that is made (default: by the file)')
        .option('--use-case <text>', 'of a model that is made')
        .option('--wait', 'wait until the coordinator has made its formats')
        .option('--publish', 'publish it, once every format is there'),
    async (options, path) => (await import('./push.js')).push(options, path),
  );
  define(
    program,
    'pull <model>',
    'download a version, checked against its digest; goes on where it was cut off',
    (command) =>
      command
        .option('-v, --version <version>', 'semantic version, its number, or latest', 'latest')
        .option('-f, --format <format>', 'such as onnx or model.json (default: the weights, or what was uploaded)')
        .option('-o, --output <path>', 'file, or folder that takes it under its own name (default: this one)'),
    async (options, model = '') => (await import('./files.js')).pull(options, model),
  );
  define(
    program,
    'convert <path>',
    'convert weights into another format, on this machine',
    (command) =>
      command
        .addOption(new Option('-t, --to <format>', 'what to make').choices(FORMATS_MADE_HERE).makeOptionMandatory())
        .option('-o, --output <path>', 'file or folder (default: this one)')
        .option('--document <file>', 'model.json of the weights, for ONNX (default: the one beside them)'),
    async (options, path = '') => (await import('./files.js')).convert(options, path),
  );
  define(
    program,
    'check <path>',
    'look into a model file without running anything of it',
    none,
    async (options, path = '') => (await import('./files.js')).check(options, path),
  );

  const models = program.command('models').description('models of the registry');
  define(
    models,
    'list',
    'list models, newest first',
    (command) =>
      command
        .option('--framework <name>', 'only of this framework')
        .option('--use-case <text>', 'only for this')
        .option('--baseline', 'only baselines')
        .option('--no-baseline', 'no baselines')
        .option('--limit <n>', 'at most so many (default: all)', integerFrom(1))
        .option('--offset <n>', 'leave out so many', integerFrom(0)),
    async ({ json, framework, useCase, baseline, limit, offset }) => {
      const rows = await (await registry()).listModels({
        ...given({ framework, useCase, isBaseline: baseline, limit, offset }),
      });
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'ID', value: (row) => row.id },
            { title: 'Name', value: (row) => row.name },
            { title: 'Framework', value: (row) => text(row['framework']) },
            { title: 'Latest', value: (row) => text(row['latestVersion']) },
            { title: 'Made', value: (row) => timeText(row['createdAt']) },
          ],
          'There are no models; "octomil push" and "octomil models ensure NAME" make one.',
        ),
      );
    },
  );
  define(models, 'show <model>', 'show a model and its versions', none, async ({ json }, model) => {
    const registered = await registry();
    const found = await registered.model(model ?? '');
    const versions = await registered.versions(found.id);
    await print(json, { ...found, versions }, async () => {
      const { versions: _versions, ...rest } = found;
      const { versionTable } = await import('./versions.js');
      return `${fields(rest)}\n\n${await versionTable(versions)}`;
    });
  });
  define(models, 'ensure <name>', 'find a model, or make it', describing, async ({ json, ...options }, name) => {
    const model = await (await registry()).ensureModel({ name: name ?? '', ...modelFields(options) });
    await print(json, model, () => `${model.name}  ${model.id}`);
  });
  define(
    models,
    'update <model>',
    'change what is said of a model',
    (command) => describing(command).option('--name <name>', 'its new name'),
    async ({ json, name, ...options }, model) => {
      const changes = { ...modelFields(options), ...given({ name }) };
      if (Object.keys(changes).length === 0) {
        const { OctomilError } = await import('@octomil/shared/errors');
        throw new OctomilError('invalid_input', 'nothing to change was given; see octomil models update --help');
      }
      const changed = await (await registry()).updateModel(model ?? '', changes);
      await print(json, changed, () => fields(changed));
    },
  );
  define(models, 'delete <model>', 'delete a model with its versions', none, async ({ json }, model) => {
    await (await registry()).deleteModel(model ?? '');
    await print(json, { model, deleted: true }, () => `${model} is deleted.`);
  });
}

const none = (): void => undefined;

function describing(command: Command): Command {
  return command
    .option('--framework <name>', 'such as octomil or pytorch')
    .option('--framework-version <version>')
    .option('--use-case <text>', 'what it is for')
    .option('--description <text>')
    .option('--baseline', 'others are compared with it')
    .option('--no-baseline', 'they are not');
}

function modelFields(options: Readonly<Record<string, unknown>>): Record<string, never> {
  const { framework, frameworkVersion, useCase, description, baseline } = options;
  return given({ framework, frameworkVersion, useCase, description, isBaseline: baseline });
}

/** Without what was not given. Commander has checked the types. */
function given(values: Readonly<Record<string, unknown>>): Record<string, never> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Record<string, never>;
}

async function registry(): Promise<import('@octomil/sdk').ModelRegistry> {
  return (await (await import('../access/connect.js')).connect()).registry;
}
