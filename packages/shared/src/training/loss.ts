import type { Output } from '@octomil/shared/models';
import type * as TfCore from '@tensorflow/tfjs-core';

/**
 * Mean loss of a batch, from logits: no probability is formed that could round to 0 or 1.
 *
 * @param prediction rows × `outputWidth(output)`
 * @param y one target per row
 */
export function batchLoss(
  tf: typeof TfCore,
  output: Output,
  prediction: TfCore.Tensor,
  y: TfCore.Tensor1D,
): TfCore.Scalar {
  switch (output.kind) {
    case 'binary': {
      // −y·ln σ(z) − (1 − y)·ln(1 − σ(z)) = softplus(z) − y·z, whose gradient is σ(z) − y.
      const logits = tf.reshape(prediction, [-1]);
      return tf.mean(tf.sub(tf.softplus(logits), tf.mul(y, logits)));
    }
    case 'multiclass': {
      const labels = tf.oneHot(tf.cast(y, 'int32'), output.classes);
      return tf.losses.softmaxCrossEntropy(labels, prediction);
    }
    case 'regression':
      return tf.mean(tf.squaredDifference(tf.reshape(prediction, [-1]), y));
  }
}
