import { OctomilError } from '@octomil/shared/errors';
import type { Output } from '@octomil/shared/models';

/** How a model does on rows that it was not trained on. */
export interface EvaluationMetrics {
  /** Rows. */
  readonly count: number;
  /** Mean loss over the rows: cross-entropy in nats, or the squared error for regression. */
  readonly loss: number;
  /** Share of rows whose likeliest class is right; null for regression. */
  readonly accuracy: number | null;
  /** Area under the ROC curve; null unless the output is binary and both classes occur. */
  readonly auc: number | null;
}

/**
 * Metrics from a model's raw outputs, in float64.
 *
 * @param logits rows × `outputWidth(output)`, row-major: logits, or the predicted values for regression
 * @param y one target per row
 * @throws OctomilError `training_failed` where an output is not finite: the weights are so large that they overflow
 */
export function metricsOf(output: Output, logits: Float32Array, y: Float32Array): EvaluationMetrics {
  const count = y.length;
  const overflown = logits.find((logit) => !Number.isFinite(logit));
  if (overflown !== undefined) {
    throw new OctomilError(
      'training_failed',
      `the model answers ${overflown} on held-out rows: its weights have grown too large; train again from an earlier version with a smaller learning rate`,
    );
  }
  switch (output.kind) {
    case 'binary': {
      let loss = 0;
      let right = 0;
      y.forEach((target, row) => {
        const logit = logits[row] ?? 0;
        loss += softplus(logit) - target * logit;
        if (logit > 0 === target > 0.5) right += 1;
      });
      return { count, loss: loss / count, accuracy: right / count, auc: areaUnderRoc(logits, y) };
    }
    case 'multiclass': {
      let loss = 0;
      let right = 0;
      y.forEach((target, row) => {
        const scores = logits.subarray(row * output.classes, (row + 1) * output.classes);
        loss += logSumExp(scores) - (scores[target] ?? 0);
        if (scores.indexOf(Math.max(...scores)) === target) right += 1;
      });
      return { count, loss: loss / count, accuracy: right / count, auc: null };
    }
    case 'regression': {
      const loss = y.reduce((sum, target, row) => sum + ((logits[row] ?? 0) - target) ** 2, 0) / count;
      return { count, loss, accuracy: null, auc: null };
    }
  }
}

/**
 * Area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil 1982): the share of (positive, negative) pairs
 * that the scores put in the right order, a tie counting half. By ranks, tied scores sharing their mean rank.
 *
 * @returns null when one of the classes does not occur
 */
export function areaUnderRoc(scores: Float32Array, y: Float32Array): number | null {
  const order = Uint32Array.from(scores.keys()).sort((left, right) => (scores[left] ?? 0) - (scores[right] ?? 0));
  let positives = 0;
  let rankSum = 0;
  for (let start = 0; start < order.length; ) {
    const score = scores[order[start] ?? 0];
    let end = start;
    let positivesHere = 0;
    do {
      if ((y[order[end] ?? 0] ?? 0) > 0.5) positivesHere += 1;
      end += 1;
    } while (end < order.length && scores[order[end] ?? 0] === score);
    // Ranks start + 1 … end.
    rankSum += (positivesHere * (start + 1 + end)) / 2;
    positives += positivesHere;
    start = end;
  }
  const negatives = y.length - positives;
  if (positives === 0 || negatives === 0) return null;
  return (rankSum - (positives * (positives + 1)) / 2) / (positives * negatives);
}

/** ln(1 + eˣ) without overflow. */
function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

function logSumExp(values: Float32Array): number {
  const largest = values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}
