import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { ModelRegistry, type ModelVersion, OctomilClientError } from '@octomil/sdk';
import { connection } from '../access/connect.js';
import type { Options } from '../program.js';
import { convertHere, planConversions } from '../push/local-conversion.js';
import { documentBeside, type LocalFile, modelFilesAt } from '../push/local-files.js';
import { pushFiles } from '../push/push-files.js';
import { interruptible } from '../terminal/interrupt.js';
import { bytesText, print, table } from '../terminal/output.js';
import { quoted } from '../terminal/quoted.js';

/** Makes a version of a file, or of the model files in a folder. */
export async function push(options: Options, path = '.'): Promise<void> {
  const files = await modelFilesAt(path);
  const formats = String(options['formats'] ?? '')
    .split(',')
    .map((format) => format.trim().toLowerCase())
    .filter((format) => format !== '');
  const { model, version, publish, json } = options;
  const access = await connection();
  const registry = new ModelRegistry(access);
  const { signal, release } = interruptible();
  const folder = await mkdtemp(join(tmpdir(), 'octomil-push-'));
  try {
    const { all, there } = await withConversions(files, formats, folder);
    await ensureModel(registry, options, files, signal);
    const target = {
      registry,
      apiBase: access.apiBase,
      model: String(model),
      version: version as string | undefined,
      description: options['description'] as string | undefined,
      formats: there,
      signal,
    };
    let pushed = await pushFiles(all, target);
    const of = { modelId: String(model), version: pushed.version, signal };
    if (publish === true || options['wait'] === true) pushed = await registry.conversions.ready(of);
    if (publish === true) pushed = await registry.publishVersion(of);
    await print(json, pushed, async () =>
      [
        `${String(model)} ${pushed.version} is ${pushed.status}.`,
        await table(all, [
          { title: 'Format', value: (file) => file.format },
          { title: 'File', value: (file) => basename(file.path) },
          { title: 'Size', value: (file) => bytesText(file.sizeBytes), align: 'right' },
          { title: 'Made', value: (file) => (file.path.startsWith(folder) ? 'here' : null) },
        ]),
        ...nextSteps(quoted(model), pushed, there),
      ].join('\n'),
    );
  } finally {
    release();
    await rm(folder, { recursive: true, force: true });
  }
}

function nextSteps(model: string, { version, status }: ModelVersion, there: readonly string[]): string[] {
  if (status === 'draft') return [`Publish it: octomil versions publish ${model} ${version}`];
  if (status !== 'converting') return [];
  return [`The coordinator makes ${there.join(', ')}; see: octomil versions formats ${model} ${version}`];
}

/** What can be made here is; what remains is the coordinator's. */
async function withConversions(
  files: readonly LocalFile[],
  formats: readonly string[],
  folder: string,
): Promise<{ all: readonly LocalFile[]; there: readonly string[] }> {
  const weights = planConversions(files, formats, true).from;
  const documentPath =
    files.find(({ format }) => format === 'model.json')?.path ??
    (weights === undefined ? undefined : await documentBeside(weights.path));
  const plan = planConversions(files, formats, documentPath !== undefined);
  const { files: converted, failed } = await convertHere(plan, documentPath, folder);
  for (const [format, reason] of failed) {
    process.stderr.write(`${format} is left to the coordinator, for it cannot be made here: ${reason}\n`);
  }
  return { all: [...files, ...converted], there: [...plan.there, ...failed.keys()] };
}

async function ensureModel(
  registry: ModelRegistry,
  options: Options,
  files: readonly LocalFile[],
  signal: AbortSignal,
): Promise<void> {
  const { model, framework, useCase } = options;
  try {
    await registry.model(String(model), signal);
  } catch (error) {
    if (!(error instanceof OctomilClientError) || error.code !== 'model_not_found') throw error;
    const main = files.find(({ format }) => format !== 'model.json');
    const told = files.some(({ format }) => format === 'model.json') ? undefined : main?.format;
    const named = framework ?? (told === 'safetensors' ? undefined : told);
    await registry.ensureModel({
      name: String(model),
      signal,
      ...(named === undefined ? {} : { framework: String(named) }),
      ...(useCase === undefined ? {} : { useCase: String(useCase) }),
    });
  }
}
