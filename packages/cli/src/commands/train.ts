import type { DryRunReport, LocalTrainingOptions, TrainingOptions } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';
import { connect } from '../access/connect.js';
import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { print, table } from '../terminal/output.js';
import { openProgress } from '../terminal/progress.js';
import { metricsText } from '../terminal/training-view.js';
import { scalar } from '../terminal/usage.js';
import { readHints } from './features-actions.js';

/** Trains, showing it; or, by option, only reports or only starts. */
export async function train(options: Options): Promise<number> {
  const client = await connect();
  const federation = client.federation(String(options['federation']));
  const { hints } = options;
  const request: TrainingOptions = {
    ...trainingOptions(options),
    ...(hints === undefined ? {} : { features: { hints: await readHints(String(hints)) } }),
  };
  const json = options['json'] === true;
  if (options['dryRun'] === true) {
    const report = await federation.train({ ...request, dryRun: true });
    await print(json, report, () => dryRunText(report));
    return report.sites.some((site) => site.eligible) ? 0 : 1;
  }
  if (options['detach'] === true) {
    const run = await federation.start(request);
    await print(json, { sessionId: run.sessionId }, () => `Session ${run.sessionId} is running.`);
    return 0;
  }
  const { signal, release } = interruptible();
  const progress = await openProgress({
    json,
    rounds: request.rounds ?? 0,
    lookAt: async (roundId) => {
      const { assignments } = await client.organization.round(roundId);
      return Array.isArray(assignments) ? assignments : [];
    },
  });
  try {
    const result = await federation.train({ ...request, signal, onEvent: (event) => progress.show(event) });
    progress.end();
    await print(json, { event: 'result', ...result }, () =>
      [
        `${request.model} ${result.version}${request.publish === false ? ' (draft)' : ''}`,
        ...(result.metrics?.overall ? [metricsText(result.metrics.overall)] : []),
        `SHA-256 ${result.digest}`,
        `pull it: octomil pull ${request.model} --version ${result.version}`,
      ].join('\n'),
    );
    return 0;
  } finally {
    progress.end();
    release();
  }
}

/** What commander gave, in the SDK's words. @throws OctomilError `invalid_input` for JSON that is none */
export function trainingOptions(options: Options): TrainingOptions {
  const local: Record<string, unknown> = {
    epochs: options['epochs'],
    batchSize: options['batchSize'],
    learningRate: options['learningRate'],
    optimizer: options['optimizer'],
    maxSteps: options['maxSteps'],
    classWeights: nameOrJson('--class-weights', options['classWeights']),
    earlyStop: options['earlyStop'] === undefined ? undefined : { patience: options['earlyStop'] },
  };
  const holdout: Record<string, unknown> = { share: options['holdout'], entityColumn: options['entityColumn'] };
  const algorithmOption = options['algorithmOption'] as Readonly<Record<string, string>> | undefined;
  return defined({
    model: String(options['model']),
    rounds: options['rounds'],
    minUpdates: options['minUpdates'],
    algorithm: options['algorithm'],
    algorithmOptions:
      algorithmOption &&
      Object.fromEntries(Object.entries(algorithmOption).map(([name, value]) => [name, scalar(value)])),
    baseVersion: options['baseVersion'],
    newVersion: options['newVersion'],
    updateFormat: options['updateFormat'],
    publish: options['publish'] === false ? false : undefined,
    architecture: nameOrJson('--architecture', options['architecture']),
    target: options['target'],
    dataSet: options['dataSet'],
    missingMarkers: options['missing'],
    featureSpec: options['features'],
    local: someDefined(local) as LocalTrainingOptions | undefined,
    holdout: someDefined(holdout),
    personalization: personalization(options['personalization'], options['headLayers']),
    seed: options['seed'],
    overSelection: options['overSelection'],
    roundDeadlineSeconds: options['deadline'],
    selector: options['label'],
    trainer: options['trainer'],
  }) as unknown as TrainingOptions;
}

function nameOrJson(option: string, value: unknown): unknown {
  if (typeof value !== 'string' || !value.trimStart().startsWith('{')) return value;
  try {
    return JSON.parse(value);
  } catch (cause) {
    throw new OctomilError('invalid_input', `${option} ${value} is neither a name nor JSON`, { cause });
  }
}

/** Head layers alone mean FedPer. @throws OctomilError `invalid_input` for head layers beside another method */
function personalization(value: unknown, layers: unknown): unknown {
  const given = nameOrJson('--personalization', value);
  if (typeof layers !== 'string') return given;
  if (given !== undefined && given !== 'fedper') {
    throw new OctomilError('invalid_input', '--head-layers belongs to --personalization fedper');
  }
  const headLayers = layers
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  return { method: 'fedper', headLayers };
}

function defined(value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined));
}

function someDefined(value: Readonly<Record<string, unknown>>): Record<string, unknown> | undefined {
  const kept = defined(value);
  return Object.keys(kept).length === 0 ? undefined : kept;
}

interface Coverage {
  readonly column: string;
  readonly sites: Readonly<Record<string, number | null>>;
}

async function dryRunText(report: DryRunReport): Promise<string> {
  const sites = await table(
    report.sites,
    [
      { title: 'Site', value: (site) => site.name },
      { title: 'Takes part', value: (site) => (site.eligible ? 'yes' : 'no') },
      { title: 'Rows', value: (site) => site.rowCount, align: 'right' },
      { title: 'Reason', value: (site) => site.reason },
    ],
    'No site is enrolled.',
  );
  const columns = coverage(report['columns'] ?? report['coverage']);
  if (columns.length === 0) return `${sites}\n\nNothing was trained.`;
  const names = [...new Set(columns.flatMap((column) => Object.keys(column.sites)))].sort();
  const covered = await table(columns, [
    { title: 'Column', value: (column: Coverage) => column.column },
    ...names.map((name) => ({
      title: name,
      value: (column: Coverage) => percent(column.sites[name]),
      align: 'right' as const,
    })),
  ]);
  return `${sites}\n\nShare of rows that have a value:\n${covered}\n\nNothing was trained.`;
}

function coverage(value: unknown): Coverage[] {
  return Array.isArray(value) ? (value as Coverage[]) : [];
}

function percent(ratio: number | null | undefined): string | null {
  return typeof ratio === 'number' ? `${Math.round(ratio * 100)} %` : null;
}
