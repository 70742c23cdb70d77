import type { Output } from '@octomil/shared/models';
import type * as TfCore from '@tensorflow/tfjs-core';

/**
 * Mean loss of a batch, from logits: no probability is formed that could round to 0 or 1.
 *
 * @param prediction rows × `outputWidth(output)`
 * @param y one target per row
 * @param rowWeights what each row's loss is multiplied by before the mean over all rows; for classes only. Default: 1
 */
export function batchLoss(
  tf: typeof TfCore,
  output: Output,
  prediction: TfCore.Tensor,
  y: TfCore.Tensor1D,
  rowWeights?: TfCore.Tensor1D,
): TfCore.Scalar {
  switch (output.kind) {
    case 'binary': {
      // −y·ln σ(z) − (1 − y)·ln(1 − σ(z)) = softplus(z) − y·z, whose gradient is σ(z) − y.
      const logits = tf.reshape(prediction, [-1]);
      const losses = tf.sub(tf.softplus(logits), tf.mul(y, logits));
      return tf.mean(rowWeights === undefined ? losses : tf.mul(losses, rowWeights));
    }
    case 'multiclass': {
      const labels = tf.oneHot(tf.cast(y, 'int32'), output.classes);
      if (rowWeights === undefined) return tf.losses.softmaxCrossEntropy(labels, prediction);
      const losses = tf.losses.softmaxCrossEntropy(labels, prediction, undefined, 0, tf.Reduction.NONE);
      return tf.mean(tf.mul(losses, rowWeights));
    }
    case 'regression':
      return tf.mean(tf.squaredDifference(tf.reshape(prediction, [-1]), y));
  }
}
