import type { FeatureSpec } from '@octomil/shared/features';
import type { ModelDocument } from '@octomil/shared/models';

/** What a model says of one row. */
export type Prediction =
  | {
      /** The most probable class. */
      readonly class: string;
      /** Of that class, 0 to 1. */
      readonly probability: number;
      /** By class, in the order of the model's outputs. */
      readonly probabilities: Readonly<Record<string, number>>;
    }
  /** In the target's own units. */
  | { readonly value: number };

/** Reads a model's outputs: logits, or the scaled value of a regression. */
export function readOutputs(document: ModelDocument, outputs: readonly (readonly number[])[]): Prediction[] {
  const { output } = document.architecture;
  const target = document.featureSpec?.target;
  if (output.kind === 'regression') {
    const { mean = 0, deviation = 1 } = target ?? {};
    return outputs.map(([value = 0]) => ({ value: value * deviation + mean }));
  }
  const names = classNames(target, output.kind === 'binary' ? 2 : output.classes);
  return outputs.map((logits) => {
    const shares = output.kind === 'binary' ? both(sigmoid(logits[0] ?? 0)) : softmax(logits);
    const best = shares.indexOf(Math.max(...shares));
    return {
      class: names[best] ?? String(best),
      probability: shares[best] ?? 0,
      probabilities: Object.fromEntries(names.map((name, index) => [name, shares[index] ?? 0])),
    };
  });
}

/** A target that compares (`num>0`) says whether that holds; without a spec, classes are their numbers. */
function classNames(target: FeatureSpec['target'] | undefined, count: number): readonly string[] {
  if (target?.rule.comparison !== undefined) return ['false', 'true'];
  if (target?.classes.length === count) return target.classes;
  return Array.from({ length: count }, (_, index) => String(index));
}

function both(probability: number): number[] {
  return [1 - probability, probability];
}

/** Without overflow on either side. */
function sigmoid(logit: number): number {
  return logit >= 0 ? 1 / (1 + Math.exp(-logit)) : Math.exp(logit) / (1 + Math.exp(logit));
}

function softmax(logits: readonly number[]): number[] {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
