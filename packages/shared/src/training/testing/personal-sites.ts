import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  encodedWidth,
  type FeatureSpec,
  type LoadedDataset,
  loadDataset,
  mergeStatistics,
  parseTargetRule,
} from '@octomil/shared/features';
import {
  type Architecture,
  initialWeights,
  parseArchitecture,
  type Random,
  seededRandom,
} from '@octomil/shared/models';
import { decodeWeights, encodeWeights, type NamedTensor } from '@octomil/shared/tensors';
import { DEFAULT_LOCAL_OPTIONS, type LocalOptions } from '../local-options.js';
import type { EvaluationMetrics } from '../metrics.js';
import type { Personalization } from '../personal/personalization.js';
import { runTask } from '../run-task.js';
import type { TfjsTrainTask, TrainResult } from '../task.js';

const HOLDOUT = { salt: 'salt', shareRatio: 0.3 };

/** One row: inputs `a` and `b`, and the target. */
export type RowMaker = (random: Random) => readonly [a: number, b: number, y: number];

/** Sites with tables of their own, and a coordinator that averages their updates. */
export class SitesForTests {
  readonly folder: string;
  readonly spec: FeatureSpec;
  readonly architecture: Architecture;
  readonly basePath: string;
  readonly #sites: readonly string[];

  private constructor(folder: string, sites: readonly string[], spec: FeatureSpec, architecture: Architecture) {
    this.folder = folder;
    this.#sites = sites;
    this.spec = spec;
    this.architecture = architecture;
    this.basePath = join(folder, 'base.safetensors');
  }

  static async make(
    folder: string,
    architecture: unknown,
    sites: readonly RowMaker[],
    rowsPerSite = 80,
  ): Promise<SitesForTests> {
    await mkdir(folder, { recursive: true });
    const paths: string[] = [];
    for (const [index, make] of sites.entries()) {
      const random = seededRandom(index + 1, 'site');
      const lines = Array.from({ length: rowsPerSite }, () => make(random).join(','));
      const path = join(folder, `site-${index}.csv`);
      await writeFile(path, ['a,b,y', ...lines].join('\n'));
      paths.push(path);
    }
    const rule = parseTargetRule('y');
    const described = await Promise.all(
      paths.map(async (path, index) => ({
        deviceId: `d${index}`,
        name: `site ${index}`,
        statistics: await runTask({ kind: 'describe', source: { path }, target: rule }),
      })),
    );
    const made = new SitesForTests(
      folder,
      paths,
      mergeStatistics(described, { target: rule }),
      parseArchitecture(architecture),
    );
    await made.restart();
    return made;
  }

  /** Puts the weights of the seed back. */
  async restart(): Promise<void> {
    const weights = initialWeights(this.architecture, encodedWidth(this.spec), 3);
    await writeFile(this.basePath, encodeWeights(weights));
  }

  async base(): Promise<NamedTensor[]> {
    return decodeWeights(await readFile(this.basePath));
  }

  rows(site: number): Promise<LoadedDataset> {
    return loadDataset({ path: this.#sites[site] ?? '' }, this.spec, HOLDOUT);
  }

  task(
    site: number,
    round: number,
    personalization: Personalization | undefined,
    options: Partial<LocalOptions> = {},
  ): TfjsTrainTask {
    return {
      kind: 'train',
      trainer: 'tfjs',
      architecture: this.architecture,
      featureSpec: this.spec,
      source: { path: this.#sites[site] ?? '' },
      basePath: this.basePath,
      outputPath: join(this.folder, `update-${site}.safetensors`),
      updateFormat: 'delta',
      options: { ...DEFAULT_LOCAL_OPTIONS, epochs: 3, batchSize: 16, learningRate: 0.05, seed: round, ...options },
      holdout: HOLDOUT,
      ...(personalization === undefined ? {} : { personalization, personal: this.place(site, round) }),
    };
  }

  place(site: number, round: number) {
    return {
      path: join(this.folder, `personal-${site}`),
      ...{ federation: 'hospitals', model: 'm', dataSet: 'default', sessionId: 's1', roundNumber: round },
    };
  }

  /** One round of FedAvg over all sites; the sites have equally many rows. */
  async round(
    number: number,
    personalization: Personalization | undefined,
    options: Partial<LocalOptions> = {},
  ): Promise<TrainResult[]> {
    const results: TrainResult[] = [];
    const next = await this.base();
    for (const site of this.#sites.keys()) {
      const task = this.task(site, number, personalization, options);
      results.push(await runTask(task));
      const update = decodeWeights(await readFile(task.outputPath));
      update.forEach(({ data }, tensor) => {
        data.forEach((value, index) => {
          const sum = next[tensor]?.data;
          if (sum !== undefined) sum[index] = (sum[index] ?? 0) + value / this.#sites.length;
        });
      });
    }
    await writeFile(this.basePath, encodeWeights(next));
    return results;
  }

  /** How the base does at each site, with what the site keeps of its own. */
  evaluations(personalization: Personalization | undefined, round = 0): Promise<(EvaluationMetrics | null)[]> {
    return Promise.all(
      [...this.#sites.keys()].map((site) => {
        const { source, architecture, featureSpec, holdout, personal } = this.task(site, round, personalization);
        return runTask({
          kind: 'evaluate',
          ...{ source, architecture, featureSpec, holdout, weightsPath: this.basePath },
          ...(personalization === undefined || personal === undefined ? {} : { personalization, personal }),
        });
      }),
    );
  }
}
