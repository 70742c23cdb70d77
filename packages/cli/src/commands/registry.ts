import type { Command } from 'commander';
import type { DefineCommand } from '../program.js';
import { fields, print, table } from '../terminal/output.js';

/** Models and their versions. */
export function register(program: Command, define: DefineCommand): void {
  const models = program.command('models').description('models and their versions');
  const none = (): void => undefined;
  define(models, 'list', 'list models', none, async ({ json }) => {
    const rows = await (await registry()).listModels();
    await print(json, rows, () =>
      table(
        rows,
        [
          { title: 'ID', value: (row) => row.id },
          { title: 'Name', value: (row) => row.name },
          { title: 'Framework', value: (row) => text(row['framework']) },
          { title: 'Made', value: (row) => text(row['createdAt']) },
        ],
        'There are no models; "octomil models ensure NAME" makes one.',
      ),
    );
  });
  define(models, 'show <model>', 'show a model and its versions', none, async ({ json }, model) => {
    const registered = await registry();
    const found = await registered.model(model ?? '');
    const versions = await registered.versions(found.id);
    await print(json, { ...found, versions }, async () => {
      const { versions: _versions, ...rest } = found;
      const rows = await table(
        versions,
        [
          { title: 'Version', value: (row) => row.version },
          { title: 'Status', value: (row) => row.status },
          { title: 'Made', value: (row) => text(row['createdAt']) },
          { title: 'SHA-256', value: (row) => text(row['modelHash'] ?? row['sha256']) },
        ],
        'It has no version yet.',
      );
      return `${fields(rest)}\n\n${rows}`;
    });
  });
  define(
    models,
    'ensure <name>',
    'find a model, or make it',
    (command) =>
      command
        .option('--framework <name>', 'such as octomil or pytorch')
        .option('--use-case <text>', 'what it is for')
        .option('--description <text>'),
    async ({ json, framework, useCase, description }, name) => {
      const model = await (await registry()).ensureModel({
        name: name ?? '',
        ...(typeof framework === 'string' ? { framework } : {}),
        ...(typeof useCase === 'string' ? { useCase } : {}),
        ...(typeof description === 'string' ? { description } : {}),
      });
      await print(json, model, () => `${model.name}  ${model.id}`);
    },
  );
  define(
    models,
    'pull <model>',
    'download a version, checked against its digest',
    (command) =>
      command
        .option('--model-version <version>', 'semantic version', 'latest')
        .option('--format <format>', 'safetensors, model.json or what was uploaded (default: the weights)')
        .option('-o, --output <file>', 'where to write it (default: its own name, here)'),
    async ({ json, modelVersion, format, output }, model) => {
      const { requirePlaceFor, writeAtomically } = await import('../terminal/write-file.js');
      if (typeof output === 'string') await requirePlaceFor(output);
      const pulled = await (await registry()).pullModel({
        model: model ?? '',
        version: String(modelVersion),
        ...(typeof format === 'string' ? { format } : {}),
      });
      const path = await writeAtomically(
        typeof output === 'string' ? output : (pulled.fileName ?? `${model}.safetensors`),
        pulled.bytes,
      );
      const result = { path, digest: pulled.digest, bytes: pulled.bytes.byteLength };
      await print(json, result, () => `${path}\n${result.bytes} bytes, SHA-256 ${result.digest}`);
    },
  );
  define(
    models,
    'push <model> <file>',
    'make a version from a file',
    (command) =>
      command
        .requiredOption('--model-version <version>', 'semantic version that does not exist yet')
        .option('--description <text>'),
    async ({ json, modelVersion, description }, model, file) => {
      const version = await (await registry()).uploadVersionFromPath({
        modelId: model ?? '',
        filePath: file ?? '',
        version: String(modelVersion),
        ...(typeof description === 'string' ? { description } : {}),
      });
      await print(json, version, () => `${model} ${version.version} is uploaded (${version.status || 'draft'}).`);
    },
  );
  define(models, 'publish <model> <version>', 'publish a version', none, async ({ json }, model, version) => {
    const published = await (await registry()).publishVersion({ modelId: model ?? '', version: version ?? '' });
    await print(json, published, () => `${model} ${version} is published.`);
  });
}

async function registry(): Promise<import('@octomil/sdk').ModelRegistry> {
  const { ModelRegistry } = await import('@octomil/sdk');
  return new ModelRegistry();
}

function text(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}
