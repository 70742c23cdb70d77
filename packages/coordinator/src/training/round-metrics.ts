import { MINIMUM_ROWS } from '@octomil/shared/features';
import type { JsonObject } from '../database/tables.js';

export interface SiteReport {
  readonly name: string;
  readonly metrics: Readonly<Record<string, unknown>>;
}

/** Figures of one site, or of all together. `null`: not reported, or not defined there. */
export interface Figures {
  readonly count: number;
  readonly loss: number | null;
  readonly accuracy: number | null;
  readonly auc: number | null;
}

/** How one checkpoint does: overall and by device identifier; null where nobody may speak. */
export interface Evaluation {
  readonly overall: Figures | null;
  readonly sites: Readonly<Record<string, Figures | null>>;
}

/**
 * What sites reported about one checkpoint, and overall: the mean of each figure over the sites that have it, weighted by
 * their held-out rows. The mean of the sites' AUCs is not the AUC of all rows together, which would need their scores.
 */
export function evaluationOf(sites: readonly SiteReport[]): Evaluation {
  const reported = sites.map(({ name, metrics }) => [name, readFigures(metrics)] as const);
  const figures = reported.flatMap(([, site]) => site ?? []);
  return { overall: figures.length === 0 ? null : combine(figures), sites: Object.fromEntries(reported) };
}

/** A train round's metrics: how the incoming base does, the mean training loss, and what each site did. */
export function trainingMetrics(answers: readonly (SiteReport & { readonly sampleCount: number })[]): {
  evaluation: Evaluation;
  train_loss: number | null;
  /** Of the sites' personal models after the round; only where sites have such. */
  personal?: Evaluation;
  training: JsonObject;
} {
  const losses = answers.flatMap(({ metrics, sampleCount }) => {
    const loss = finite(metrics['trainLoss']);
    return loss === null ? [] : [{ value: loss, weight: sampleCount }];
  });
  return {
    evaluation: evaluationOf(answers.map(({ name, metrics }) => ({ name, metrics: asRecord(metrics['evaluation']) }))),
    train_loss: mean(losses),
    ...(answers.some(({ metrics }) => metrics['personal'] !== undefined)
      ? {
          personal: evaluationOf(
            answers.map(({ name, metrics }) => ({ name, metrics: asRecord(metrics['personal']) })),
          ),
        }
      : {}),
    training: Object.fromEntries(
      answers.map(({ name, metrics, sampleCount }) => [
        name,
        {
          sample_count: sampleCount,
          train_loss: finite(metrics['trainLoss']),
          steps: finite(metrics['steps']),
          seconds: finite(metrics['seconds']),
          backend: typeof metrics['backend'] === 'string' ? metrics['backend'].slice(0, 40).toWellFormed() : null,
          ...optional('best_epoch', finite(metrics['bestEpoch'])),
          ...optional('personal_started_from', text(asRecord(metrics['personalization'])['startedFrom'])),
          ...optional('personal_reason', text(asRecord(metrics['personalization'])['reason'])),
        },
      ]),
    ),
  };
}

function readFigures(metrics: Readonly<Record<string, unknown>>): Figures | null {
  const count = finite(metrics['count']);
  // An agent that says more than it may is not passed on.
  if (count === null || count < MINIMUM_ROWS) return null;
  return {
    count,
    loss: finite(metrics['loss']),
    accuracy: finite(metrics['accuracy']),
    auc: finite(metrics['auc']),
  };
}

function combine(figures: readonly Figures[]): Figures {
  const over = (name: 'loss' | 'accuracy' | 'auc') =>
    mean(
      figures.flatMap((site) => {
        const value = site[name];
        return value === null ? [] : [{ value, weight: site.count }];
      }),
    );
  return {
    count: figures.reduce((sum, site) => sum + site.count, 0),
    loss: over('loss'),
    accuracy: over('accuracy'),
    auc: over('auc'),
  };
}

function mean(values: readonly { value: number; weight: number }[]): number | null {
  const total = values.reduce((sum, { weight }) => sum + weight, 0);
  return total > 0 ? values.reduce((sum, { value, weight }) => sum + value * weight, 0) / total : null;
}

function finite(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

const text = (value: unknown): string | null => (typeof value === 'string' ? value.slice(0, 200).toWellFormed() : null);

const optional = (name: string, value: number | string | null): JsonObject => (value === null ? {} : { [name]: value });

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
