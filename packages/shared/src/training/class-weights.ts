import { OctomilError } from '@octomil/shared/errors';
import { MINIMUM_ROWS } from '@octomil/shared/features';
import type { Output } from '@octomil/shared/models';
import type { LocalOptions } from './local-options.js';

/**
 * The weight of each class in the loss, by class index.
 *
 * `balanced` is n / (k · nᵢ) for the k classes that occur among these n rows: each class weighs as much as every other, and
 * the mean weight of a row is 1 (King and Zeng 2001, "Logistic Regression in Rare Events Data"; as scikit-learn has it). A
 * class of fewer than 10 rows is weighed as if it had 10, so that no row has more than a tenth of the say.
 * Classes that weights do not name have 1.
 *
 * @param y class index of each train row
 * @param names the classes in the order of the model's outputs; without them classes are `0`, `1`, …
 * @throws OctomilError `invalid_input` for a regression, or a class that there is not, naming those that there are;
 * `too_few_rows` for given weights by which fewer than 10 rows decide
 */
export function classWeightsOf(
  wanted: NonNullable<LocalOptions['classWeights']>,
  output: Output,
  y: Float32Array,
  names: readonly string[] = [],
): Float32Array {
  if (output.kind === 'regression') {
    throw new OctomilError(
      'invalid_input',
      'class weights need classes, and this model learns a number; leave them out',
    );
  }
  const classes = output.kind === 'binary' ? 2 : output.classes;
  if (wanted === 'balanced') return balanced(classes, y);
  const labels = names.length === classes ? names : Array.from({ length: classes }, (_, index) => String(index));
  const weights = new Float32Array(classes).fill(1);
  for (const [label, weight] of Object.entries(wanted)) {
    const index = labels.indexOf(label);
    if (index < 0) {
      throw new OctomilError(
        'invalid_input',
        `class weights name the class ${JSON.stringify(label)}; the target's classes are ${labels.join(', ')}`,
        { details: { class: label, classes: labels } },
      );
    }
    weights[index] = weight;
  }
  requireRows(weights, y);
  return weights;
}

/**
 * A site takes part with 10 rows at least, and weights of 0 or of millions would leave fewer. Counted as the effective size
 * of a weighted sample, (Σw)² ÷ Σw² (Kish 1965, "Survey Sampling").
 */
function requireRows(weights: Float32Array, y: Float32Array): void {
  let [sum, squares] = [0, 0];
  for (const label of y) {
    const weight = weights[label] ?? 1;
    sum += weight;
    squares += weight * weight;
  }
  if (sum * sum >= MINIMUM_ROWS * squares && sum > 0) return;
  throw new OctomilError(
    'too_few_rows',
    // Not how many: this goes to the coordinator, which must not learn a number below the limit.
    `by these class weights fewer than ${MINIMUM_ROWS} rows of this site would decide; take weights that are closer, or "balanced"`,
    { details: { limit: MINIMUM_ROWS } },
  );
}

function balanced(classes: number, y: Float32Array): Float32Array {
  const counts = new Array<number>(classes).fill(0);
  for (const label of y) counts[label] = (counts[label] ?? 0) + 1;
  const present = counts.filter((count) => count > 0).length;
  return Float32Array.from(counts, (count) => (count === 0 ? 1 : y.length / (present * Math.max(count, MINIMUM_ROWS))));
}
