import type { ModelVersion } from '@octomil/sdk';
import { type Command, Option } from 'commander';
import type { DefineCommand } from '../program.js';
import { bytesText, fields, print, table, text, timeText } from '../terminal/output.js';
import { pair, scalar } from '../terminal/usage.js';

/** Versions of models: immutable files, and what is known of them. */
export function register(program: Command, define: DefineCommand): void {
  const versions = program.command('versions').description('versions of a model');
  define(
    versions,
    'list <model>',
    'list versions, newest first',
    (command) =>
      command.addOption(
        new Option('--status <status>', 'only these').choices([
          'validating',
          'converting',
          'draft',
          'published',
          'deprecated',
        ]),
      ),
    async ({ json, status }, model) => {
      const rows = await (await registry()).versions(model ?? '', typeof status === 'string' ? { status } : {});
      await print(json, rows, () => versionTable(rows));
    },
  );
  define(versions, 'show <model> <version>', 'show a version (latest: the newest published)', none, async (...args) => {
    const [{ json }, model = '', version = ''] = args;
    const found = await (await registry()).version(model, version);
    await print(json, found, () => versionText(found));
  });
  for (const [action, done] of [
    ['publish', 'published'],
    ['deprecate', 'deprecated: devices keep it, and no new rollout takes it'],
  ] as const) {
    define(versions, `${action} <model> <version>`, `${action} a version`, none, async ({ json }, model, version) => {
      const changed = await (await registry())[`${action}Version`]({ modelId: model ?? '', version: version ?? '' });
      await print(json, changed, () => `${model} ${changed.version} is ${done}.`);
    });
  }
  define(versions, 'delete <model> <version>', 'delete a version that nothing uses', none, async (...args) => {
    const [{ json }, model = '', version = ''] = args;
    await (await registry()).deleteVersion({ modelId: model, version });
    await print(json, { model, version, deleted: true }, () => `${model} ${version} is deleted.`);
  });
  define(versions, 'lineage <model> <version>', 'show what a version was made of', none, async (...args) => {
    const [{ json }, model = '', version = ''] = args;
    const lineage = await (await registry()).lineage({ modelId: model, version });
    await print(json, lineage, () => lineageTable(lineage['chain']));
  });
  define(
    versions,
    'metrics <model> <version>',
    "show a version's metrics, or add to them",
    (command) => command.option('--set <name=value>', 'a figure, such as accuracy=0.91; repeat for more', pair),
    async ({ json, set }, model = '', version = '') => {
      const of = { modelId: model, version };
      const registered = await registry();
      const figures = Object.entries((set ?? {}) as Record<string, string>);
      const found =
        figures.length === 0
          ? await registered.version(model, version)
          : await registered.updateMetrics({
              ...of,
              metrics: Object.fromEntries(figures.map(([name, value]) => [name, scalar(value)])),
            });
      const metrics = (found['metrics'] ?? {}) as Record<string, unknown>;
      await print(json, metrics, () => fields(metrics) || 'Nothing was measured yet.');
    },
  );
  define(
    versions,
    'formats <model> <version>',
    'show the formats of a version that were asked for, and how they stand',
    (command) =>
      command
        .option('--add <list>', 'ask for more, such as onnx,tflite; those that failed are tried again')
        .option('--drop <format>', 'do without one that failed'),
    async ({ json, add, drop }, model = '', version = '') => {
      const of = { modelId: model, version };
      const { conversions } = await registry();
      if (typeof drop === 'string') await conversions.drop({ ...of, format: drop });
      const rows =
        typeof add === 'string' ? await conversions.request({ ...of, formats: add }) : await conversions.status(of);
      await print(json, rows, () =>
        table(
          rows,
          [
            { title: 'Format', value: (row) => row.format },
            { title: 'State', value: (row) => row.state },
            { title: 'Reason', value: (row) => row.reason },
          ],
          'No format was asked for beside what was uploaded.',
        ),
      );
    },
  );
}

export function versionTable(rows: readonly ModelVersion[]): Promise<string> {
  return table(
    rows,
    [
      { title: 'Version', value: (row) => row.version },
      { title: 'Status', value: (row) => row.status },
      { title: 'Formats', value: (row) => Object.keys((row['formats'] ?? {}) as object).join(' ') || null },
      { title: 'Size', value: (row) => bytesText(row['modelSizeBytes']), align: 'right' },
      { title: 'Made', value: (row) => timeText(row['createdAt']) },
      {
        title: 'SHA-256',
        value: (row) =>
          text(row['modelHash'])
            ?.replace(/^sha256:/, '')
            .slice(0, 12),
      },
    ],
    'It has no version yet.',
  );
}

async function versionText(found: ModelVersion): Promise<string> {
  const { id, sequence, version, status, description, metrics, createdBy, createdAt, publishedAt } = found;
  const figures = fields((metrics ?? {}) as Record<string, unknown>);
  const files = await table(rowsOf(found['artifacts']), [
    { title: 'Format', value: (row) => text(row['format']) },
    { title: 'File', value: (row) => text(row['file_name']) },
    { title: 'Size', value: (row) => bytesText(row['size_bytes']), align: 'right' },
    { title: 'SHA-256', value: (row) => text(row['sha256']) },
  ]);
  const lineage = (found['lineage'] ?? {}) as Record<string, unknown>;
  const features = lineage['feature_spec_hash'];
  const told = fields({ version, sequence, status, description, createdBy, createdAt, publishedAt, id, features });
  return [told, ...(figures === '' ? [] : [figures]), files].join('\n\n');
}

function lineageTable(chain: unknown): Promise<string> {
  return table(rowsOf(chain), [
    { title: 'Version', value: (row) => text(row['version']) },
    { title: 'Status', value: (row) => text(row['status']) },
    { title: 'Origin', value: (row) => text(row['origin']) },
    { title: 'Session', value: (row) => text(row['session_id']) },
    { title: 'Algorithm', value: (row) => text(row['strategy']) },
    { title: 'Rounds', value: (row) => text(row['rounds']), align: 'right' },
    { title: 'Sites', value: (row) => text(row['participants']), align: 'right' },
    { title: 'Made', value: (row) => timeText(row['created_at']) },
  ]);
}

function rowsOf(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? (value as Record<string, unknown>[]) : [];
}

const none = (): void => undefined;

async function registry(): Promise<import('@octomil/sdk').ModelRegistry> {
  return (await (await import('../access/connect.js')).connect()).registry;
}
