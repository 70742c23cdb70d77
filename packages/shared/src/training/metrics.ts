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
