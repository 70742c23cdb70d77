import { OctomilError } from '@octomil/shared/errors';
import type { BuiltModel, TensorBackend } from '@octomil/shared/models';
import type { Tensor, Variable } from '@tensorflow/tfjs-core';

/** A weight that steps change, under its name in the model's layout. */
export interface TrainedVariable {
  readonly name: string;
  readonly variable: Variable;
}

/** A part of the loss that is known by its gradient: exact, and nothing to differentiate. */
export interface GradientTerm {
  /**
   * What is added to this variable's gradient in this step. Called inside `tf.tidy`, so that what it makes is freed.
   *
   * @param index place of the variable in the list that the term was made with
   * @returns a tensor of the variable's shape, or undefined for nothing
   */
  gradient(trained: TrainedVariable, index: number): Tensor | undefined;
  /** Frees what the term keeps between steps. */
  dispose(): void;
}

/** Makes a term before the first step, when the variables are what training starts from. */
export type GradientTermFactory = (
  backend: TensorBackend,
  variables: readonly TrainedVariable[],
  built: BuiltModel,
) => GradientTerm;

/**
 * Gradient μ·(w − w₀) of the proximal term (μ/2)·‖w − w₀‖² over the trainable weights.
 *
 * @param strength μ, the weight of the term in the loss
 * @param anchor w₀ as a flat vector in the order of the model's layout. Default: the weights that training starts from,
 * which is FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks")
 */
export function proximalTerm(strength: number, anchor?: Float32Array): GradientTermFactory {
  return ({ tf }, variables, built) => {
    const places = new Map(built.layout.tensors.map((tensor) => [tensor.name, tensor]));
    const anchors = variables.map(({ name, variable }) => {
      if (anchor === undefined) return tf.tidy(() => tf.clone(variable));
      const place = places.get(name);
      if (place === undefined) throw new OctomilError('internal', `weight ${name} has no place in the layout`);
      // A copy: some backends keep the array that they are given.
      return tf.tensor(anchor.slice(place.offset, place.offset + place.size), [...place.shape], 'float32');
    });
    return {
      gradient: ({ variable }, index) => {
        const start = anchors[index];
        return start === undefined ? undefined : tf.mul(tf.sub(variable, start), strength);
      },
      dispose: () => tf.dispose(anchors),
    };
  };
}
