import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { encodedWidth, mergeStatistics, parseTargetRule } from '@octomil/shared/features';
import { initialWeights, parseArchitecture } from '@octomil/shared/models';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { DEFAULT_LOCAL_OPTIONS } from '@octomil/shared/training';
import type { AgentConfig } from '../config/agent-config.js';
import { FetchingTrainer } from '../data-sets/fetching-trainer.js';
import { readSummaries } from '../data-sets/read-summary.js';
import { type SiteData, withSiteData } from '../data-sets/site-data.js';
import { type DataSetSummary, type Summarize, summarizeInProcess } from '../data-sets/summary.js';
import { LazyTrainer } from '../training/lazy-trainer.js';
import { chooseDataSet } from '../training/task.js';
import { policyNow } from './paused.js';
import { decide } from './policy.js';
import { allowedStatistics } from './task-columns.js';

export interface DryRunOptions {
  readonly federation: string;
  readonly model: string;
  /** Default: as for an assignment that names none. */
  readonly dataSet?: string | undefined;
  /** What would be learned, such as `num>0`. */
  readonly target: string;
  /** Default `logistic`. */
  readonly architecture?: string | undefined;
  readonly nowMs?: number;
  readonly summarize?: Summarize;
}

/** What would leave, in the order in which it would. */
export interface DryRun {
  readonly rule: string;
  readonly siteSummary: {
    readonly labels: Readonly<Record<string, string>>;
    readonly dataSets: readonly DataSetSummary[];
  };
  /** As it would be sent: rounded, and without what tells of few rows. */
  readonly statistics: unknown;
  /** Of one round of one epoch. In a session the features are agreed among sites, so that sizes and numbers differ. */
  readonly update: {
    readonly sizeBytes: number;
    readonly sampleCount: number;
    readonly metrics: { readonly trainLoss: number | null; readonly evaluation: unknown };
  };
}

/**
 * Does a round on this machine alone, without a coordinator. Nothing leaves, and no question is counted.
 *
 * @throws OctomilError `policy_denied` when the policy allows none of it; as the trainer's tasks
 */
export function dryRun(config: AgentConfig, options: DryRunOptions): Promise<DryRun> {
  return withSiteData(config, (data) => roundAlone(config, data, options));
}

/** What pictures are resized to where no model says it. */
const DRY_RUN_PICTURES = { height: 32, width: 32, channels: 1 } as const;

async function roundAlone(config: AgentConfig, data: SiteData, options: DryRunOptions): Promise<DryRun> {
  const dataSet = chooseDataSet(config.dataSets, options.dataSet ?? '');
  const source = config.dataSets[dataSet];
  if (source === undefined) throw new OctomilError('data_unreadable', `this site has no data set "${dataSet}"`);
  const { federation, model, nowMs = Date.now() } = options;
  const target = parseTargetRule(options.target);
  const decision = decide(policyNow(config), { federation, model, dataSet, columns: [target.column], nowMs });
  if (!decision.allowed) throw decision.problem;
  const names = Object.keys(config.dataSets);
  const summaries = await readSummaries(
    Object.values(config.dataSets),
    data,
    options.summarize ?? summarizeInProcess,
    new AbortController().signal,
  );
  const dataSets = summaries.map(({ summary }, index) => ({ name: names[index] ?? '', ...summary }));
  const inner = new LazyTrainer(config.trainer, { clock: systemClock, logger: silentLogger });
  const trainer = new FetchingTrainer(inner, data);
  const folder = await mkdtemp(join(tmpdir(), 'octomil-dry-run-'));
  try {
    // Pictures need a size, which the session's model would give.
    const isPictures = source.images !== undefined;
    const described = await trainer.run({
      kind: 'describe',
      source,
      target,
      ...(isPictures ? { imageShape: DRY_RUN_PICTURES } : {}),
    });
    const statistics = JSON.parse(allowedStatistics(JSON.stringify(described), decision.columns)) as typeof described;
    const spec = mergeStatistics([{ deviceId: 'here', name: config.deviceIdentifier, statistics }], {
      target,
      missingMarkers: {},
      ...(isPictures ? { layout: 'grid' } : {}),
    });
    const architecture = { ...parseArchitecture(options.architecture ?? 'logistic'), output: spec.target.output };
    const basePath = join(folder, 'base.safetensors');
    await writeFile(basePath, encodeWeights(initialWeights(architecture, encodedWidth(spec), 0)));
    const { sampleCount, update, trainLoss, evaluation } = await trainer.run({
      kind: 'train',
      trainer: 'tfjs',
      source,
      featureSpec: spec,
      architecture,
      basePath,
      outputPath: join(folder, 'update.safetensors'),
      updateFormat: 'delta',
      options: DEFAULT_LOCAL_OPTIONS,
      holdout: { salt: model, shareRatio: 0.2 },
    });
    return {
      rule: decision.rule,
      siteSummary: { labels: config.labels, dataSets },
      statistics,
      update: { sizeBytes: update.sizeBytes, sampleCount, metrics: { trainLoss, evaluation } },
    };
  } finally {
    await trainer.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
