import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type DesiredModelSchema, DesiredStateSchema, WelcomeSchema } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import type { ConditionRules, DeviceFacts } from '../conditions/condition-rules.js';
import type { DeviceConditions } from '../conditions/device-conditions.js';
import { type Conditions, Eligibility } from '../conditions/eligibility.js';
import type { ActivePointer } from '../deployments/active-pointer.js';
import { Deployments } from '../deployments/deployments.js';
import type { SiteEvaluation } from '../deployments/model-health.js';
import type { ObservedModelFields } from '../deployments/observed-report.js';
import type { BaseStore } from '../models/base-store.js';
import { type LogLine, recordingLogger } from './agent-under-test.js';
import { FakeTrainer } from './fake-trainer.js';
import { ManualClock } from './manual-clock.js';

export type DesiredInit = MessageInitShape<typeof DesiredModelSchema>;

/** Says what a test puts into it. */
export class FakeConditions implements DeviceConditions {
  facts: Partial<DeviceFacts> = {};
  freeBytes: number | undefined;

  async read(_rules: ConditionRules): Promise<DeviceFacts> {
    const unknown = { batteryPercent: undefined, charging: undefined, metered: undefined, loadPerCpu: undefined };
    return { ...unknown, freeDiskBytes: this.freeBytes, ...this.facts };
  }

  async freeDiskBytes(): Promise<number | undefined> {
    return this.freeBytes;
  }
}

const EVERYTHING = { training: {}, downloads: {}, activation: {} };

/** Deployments without a session: a test says what is desired, answers reports, and lets time pass. */
export class DeploymentBench {
  readonly folder: string;
  readonly clock = new ManualClock();
  readonly conditions = new FakeConditions();
  readonly trainer = new FakeTrainer();
  readonly log: LogLine[] = [];
  readonly audit: Record<string, unknown>[] = [];
  /** Digests that were fetched, in order. */
  readonly fetched: string[] = [];
  readonly dropped: string[] = [];
  readonly reports: (readonly ObservedModelFields[])[] = [];
  readonly objects = new Map<string, Buffer>();
  evaluation: SiteEvaluation = { evaluation: null, baseline: null };
  evaluated: string[][] = [];
  auditFailure: OctomilError | undefined;
  holdReceipts = false;
  busy = 0;
  /** Called for each file that is asked for, before it comes. */
  onFetch: (sha256: string, signal: AbortSignal) => Promise<void> = async () => undefined;
  deployments: Deployments;
  readonly #rules: Conditions;
  readonly #models: readonly string[] | undefined;

  private constructor(folder: string, rules: Partial<Conditions>, models: readonly string[] | undefined) {
    this.folder = folder;
    this.#rules = { ...EVERYTHING, ...rules };
    this.#models = models;
    this.deployments = this.#make();
  }

  static async open(rules: Partial<Conditions> = {}, models?: readonly string[]): Promise<DeploymentBench> {
    const bench = new DeploymentBench(await mkdtemp(join(tmpdir(), 'octomil-deploy-')), rules, models);
    await bench.deployments.start();
    bench.connect();
    return bench;
  }

  #make(): Deployments {
    const { clock, folder, trainer } = this;
    return new Deployments({
      config: { deployableModels: this.#models, dataSets: {}, stateDir: folder },
      path: folder,
      store: {
        hold: (base, signal) => this.#hold(base, signal),
        missingBytes: async ({ sizeBytes }) => sizeBytes,
        drop: async (sha256) => {
          if (!this.deployments.referenced(sha256)) this.dropped.push(sha256);
        },
      },
      trainer,
      evaluator: {
        evaluate: async (_, current, previous) => {
          this.evaluated.push([current.versionId, previous?.versionId ?? '']);
          return this.evaluation;
        },
      },
      eligibility: new Eligibility(this.#rules, this.conditions, clock),
      audit: {
        record: async (entry) => {
          if (this.auditFailure !== undefined) throw this.auditFailure;
          this.audit.push({ ...entry });
        },
      },
      busy: () => this.busy,
      clock,
      random: () => 1,
      logger: recordingLogger(this.log),
    });
  }

  async #hold({ sha256 }: { sha256: string }, signal: AbortSignal): ReturnType<Pick<BaseStore, 'hold'>['hold']> {
    this.fetched.push(sha256);
    await this.onFetch(sha256, signal);
    signal.throwIfAborted();
    const path = join(this.folder, `.${sha256}`);
    await writeFile(path, this.objects.get(sha256) ?? Buffer.alloc(0));
    return { path, release: () => void rm(path, { force: true }) };
  }

  /** As after a restart of the process; a stop in good order is what a crash is not, so nothing is awaited of it. */
  async restart(): Promise<void> {
    await this.deployments.stop();
    this.deployments = this.#make();
    await this.deployments.start();
    this.connect();
  }

  connect(): void {
    this.deployments.connected({
      welcome: create(WelcomeSchema, {}),
      send: (event) => {
        if (event.case !== 'observedState') return;
        this.reports.push((event.value.models ?? []) as ObservedModelFields[]);
        if (!this.holdReceipts) setTimeout(() => this.deployments.receipt());
      },
    });
  }

  file(fileName: string, format: string, text: string) {
    const bytes = Buffer.from(text);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    this.objects.set(sha256, bytes);
    return { fileName, format, sha256, sizeBytes: BigInt(bytes.length) };
  }

  /** A version of model "risk" that is one of our own. */
  version(name: string, more: Partial<DesiredInit> = {}): DesiredInit {
    return {
      modelId: 'm1',
      modelName: 'risk',
      versionId: `v-${name}`,
      version: name,
      rolloutId: 1n,
      activation: 'immediate',
      artifacts: [
        this.file('model.json', 'model.json', '{}'),
        this.file('weights.safetensors', 'safetensors', `weights of ${name}`),
      ],
      ...more,
    } as DesiredInit;
  }

  desire(...models: DesiredInit[]): void {
    this.deployments.desired(create(DesiredStateSchema, { models }));
  }

  /** Of the last report. */
  observed(modelId = 'm1'): ObservedModelFields | undefined {
    return this.reports.at(-1)?.find((model) => model.modelId === modelId);
  }

  /** States of a model in the order they were told. */
  get states(): string[] {
    const told = this.reports.flatMap((models) => models.map(({ versionId, state }) => `${versionId} ${state}`));
    return told.filter((one, index) => one !== told[index - 1]);
  }

  async pointer(modelId = 'm1'): Promise<ActivePointer> {
    return JSON.parse(await readFile(join(this.folder, modelId, 'active.json'), 'utf8')) as ActivePointer;
  }

  /** @throws OctomilError `request_timeout` when it never holds */
  async until(condition: () => boolean): Promise<void> {
    const endMs = Date.now() + 10_000;
    while (!condition()) {
      if (Date.now() > endMs) throw new OctomilError('request_timeout', `never happened: ${condition}`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  /** Whatever is under way gets as far as it can without time passing. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      await setImmediate();
    }
  }

  async close(): Promise<void> {
    await this.deployments.stop();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

export async function onDeploymentBench(
  run: (bench: DeploymentBench) => Promise<void>,
  rules: Partial<Conditions> = {},
  models?: readonly string[],
): Promise<void> {
  const bench = await DeploymentBench.open(rules, models);
  try {
    await run(bench);
  } finally {
    await bench.close();
  }
}
