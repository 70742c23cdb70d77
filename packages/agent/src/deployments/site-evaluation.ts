import { readFile } from 'node:fs/promises';
import { toOctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { EvaluationMetrics, Trainer } from '@octomil/shared/training';
import type { AuditLog } from '../audit/audit-log.js';
import type { AgentConfig } from '../config/agent-config.js';
import { ruleForModel } from '../policy/policy.js';
import type { QuestionLog } from '../policy/question-log.js';
import { questionOfSpec } from '../policy/spec-question.js';
import type { SiteEvaluation } from './model-health.js';

/** The two files that a model of our own consists of. */
export interface OwnModelFiles {
  readonly versionId: string;
  readonly documentPath: string;
  readonly weightsPath: string;
}

export interface SiteEvaluatorOptions {
  readonly config: Pick<AgentConfig, 'policy' | 'dataSets'>;
  readonly trainer: Trainer;
  readonly audit: Pick<AuditLog, 'record'>;
  readonly questions: Pick<QuestionLog, 'count'>;
  /** Of a data set as it is now. @throws OctomilError `data_unreadable` when it cannot be read */
  readonly digestOf: (dataSet: string) => Promise<string>;
  readonly logger: Logger;
}

/** As training holds out where a session does not say otherwise. */
const HOLDOUT_SHARE_RATIO = 0.2;
const NOTHING: SiteEvaluation = { evaluation: null, baseline: null };

/**
 * Compares a version with the one before it on rows that training at this site left out: the held-out rows are chosen by
 * the model's name, in training as well as here.
 */
export class SiteEvaluator {
  readonly #options: SiteEvaluatorOptions;

  constructor(options: SiteEvaluatorOptions) {
    this.#options = options;
  }

  /**
   * Nulls where the site's policy allows none of its data sets, or there are fewer than ten rows, or it cannot be done:
   * a version may be fine without figures.
   *
   * @throws OctomilError `cancelled`; `insufficient_storage` when what is about to leave cannot be written down
   */
  async evaluate(
    modelName: string,
    current: OwnModelFiles,
    previous: OwnModelFiles | undefined,
    signal: AbortSignal,
  ): Promise<SiteEvaluation> {
    const { config, audit, logger } = this.#options;
    const names = Object.keys(config.dataSets);
    const ordered = names.includes('default') ? ['default', ...names.filter((name) => name !== 'default')] : names;
    const allowed = ruleForModel(config.policy, modelName, ordered);
    if (allowed === undefined) return NOTHING;
    const on = (files: OwnModelFiles): Promise<EvaluationMetrics | null> =>
      this.#metricsOf(modelName, files, allowed.dataSet, signal).catch((thrown: unknown) => {
        signal.throwIfAborted();
        const error = toOctomilError(thrown);
        logger.warn(
          { error, modelName, ...allowed, versionId: files.versionId },
          'a deployed version was not evaluated',
        );
        return null;
      });
    const evaluation = await on(current);
    if (evaluation === null) return NOTHING;
    const baseline = previous === undefined ? null : await on(previous);
    await audit.record({
      kind: 'evaluation',
      model: modelName,
      ...allowed,
      details: { versionId: current.versionId, metrics: evaluation, baseline },
    });
    return { evaluation, baseline };
  }

  async #metricsOf(
    modelName: string,
    files: OwnModelFiles,
    dataSet: string,
    signal: AbortSignal,
  ): Promise<EvaluationMetrics | null> {
    const { config, trainer, questions, digestOf } = this.#options;
    const source = config.dataSets[dataSet];
    const { parseModelDocument } = await import('@octomil/shared/models');
    const { architecture, featureSpec } = parseModelDocument(await readFile(files.documentPath));
    if (source === undefined || featureSpec === undefined) return null;
    const question = questionOfSpec(featureSpec);
    if (question !== undefined) await questions.count(dataSet, await digestOf(dataSet), question);
    const holdout = { salt: modelName, shareRatio: HOLDOUT_SHARE_RATIO };
    const { weightsPath } = files;
    return trainer.run({ kind: 'evaluate', architecture, featureSpec, source, weightsPath, holdout }, { signal });
  }
}
