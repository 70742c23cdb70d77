import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { type BuiltModel, trainableVariables } from '@octomil/shared/models';
import {
  controlLayout,
  controlledUpdateLayout,
  flatView,
  type ParameterLayout,
  parseLayout,
  sameLayout,
} from '@octomil/shared/tensors';
import type { GradientTermFactory } from './gradient-terms.js';
import type { LocalOptions } from './local-options.js';
import type { ControlVariateFiles, UpdateDestination, UpdateFile } from './task.js';
import { writeUpdate } from './update-file.js';

/** Two vectors like the model, in the order of its layout. */
export interface ControlVariates {
  /** c. */
  readonly server: Float32Array;
  /** c_i. */
  readonly own: Float32Array;
}

/**
 * Reads the control variates that a round starts from.
 *
 * @throws OctomilError `data_mismatch` for a file of another model, `corrupt_file`; `training_not_supported` for another
 * optimizer than plain SGD: the next c_i is computed from how far the weights moved, which says what the gradients were
 * only where each step is the learning rate times the gradient
 */
export async function readControlVariates(
  files: ControlVariateFiles,
  model: ParameterLayout,
  {
    options,
    updateFormat,
  }: { readonly options: LocalOptions; readonly updateFormat: UpdateDestination['updateFormat'] },
): Promise<ControlVariates> {
  if (updateFormat !== 'delta') {
    throw new OctomilError('training_not_supported', `scaffold's updates are changes (delta), not ${updateFormat}`);
  }
  if (options.optimizer !== 'sgd' || options.proximalMu !== 0) {
    const given = options.optimizer === 'sgd' ? `proximalMu = ${options.proximalMu}` : options.optimizer;
    throw new OctomilError('training_not_supported', `scaffold trains with sgd alone, not with ${given}`);
  }
  if (options.earlyStop !== undefined) {
    // It keeps the weights of an earlier epoch, which are not as many steps away as were taken.
    throw new OctomilError('training_not_supported', 'scaffold trains as many steps as it is told, without earlyStop');
  }
  const [server, own] = await Promise.all([read(files.serverPath, model), read(files.ownPath, model)]);
  return { server, own };
}

async function read(path: string | undefined, model: ParameterLayout): Promise<Float32Array> {
  if (path === undefined) return new Float32Array(model.totalParams);
  const bytes = await readFile(path);
  const layout = parseLayout(bytes);
  const difference = sameLayout(controlLayout(model), layout);
  if (difference !== undefined) {
    throw new OctomilError('data_mismatch', `the control variates are of another model: ${difference}`);
  }
  return flatView(bytes, layout);
}

/** The correction of SCAFFOLD's local steps, y ← y − η·(g − c_i + c): the gradient gains c − c_i. */
export function controlTerm({ server, own }: ControlVariates): GradientTermFactory {
  return ({ tf }, variables, built) => {
    const places = new Map(built.layout.tensors.map((tensor) => [tensor.name, tensor]));
    const corrections = variables.map(({ name }) => {
      const place = places.get(name);
      if (place === undefined) throw new OctomilError('internal', `weight ${name} has no place in the layout`);
      const { offset, size, shape } = place;
      const values = Float32Array.from({ length: size }, (_, index) => {
        const at = offset + index;
        return (server[at] ?? 0) - (own[at] ?? 0);
      });
      return tf.tensor(values, [...shape], 'float32');
    });
    return { gradient: (_, index) => corrections[index], dispose: () => tf.dispose(corrections) };
  };
}

/**
 * The site's next control variate, option II of Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for
 * Federated Learning", algorithm 1: c_i⁺ = c_i − c + (x − y_i) ÷ (K·η). Weights that no step changes (the running means of
 * a normalization) have none: zeros.
 *
 * @param change y_i − x, in the order of the model's layout
 * @param steps K, those really taken
 * @returns the next c_i and what it differs from the one before
 */
export function nextControlVariate(
  built: BuiltModel,
  { server, own }: ControlVariates,
  change: Float32Array,
  { steps, learningRate }: { readonly steps: number; readonly learningRate: number },
): { readonly next: Float32Array; readonly difference: Float32Array } {
  const next = new Float32Array(own.length);
  const difference = new Float32Array(own.length);
  const trained = new Set(trainableVariables(built).map(({ name }) => name));
  for (const { name, offset, size } of built.layout.tensors) {
    if (!trained.has(name)) continue;
    for (let index = offset; index < offset + size; index++) {
      const moved = -(change[index] ?? 0) / (steps * learningRate) - (server[index] ?? 0);
      next[index] = (own[index] ?? 0) + moved;
      difference[index] = moved;
    }
  }
  return { next, difference };
}

/** Writes the site's next control variate, then the update with both halves. @throws OctomilError as `writeUpdate` */
export async function writeControlledUpdate(
  { outputPath }: UpdateDestination,
  { ownOutputPath }: ControlVariateFiles,
  model: ParameterLayout,
  change: Float32Array,
  { next, difference }: { readonly next: Float32Array; readonly difference: Float32Array },
): Promise<UpdateFile> {
  await writeUpdate(ownOutputPath, async (writer) => {
    await writer.write(controlLayout(model).headerBytes);
    await writer.write(bytesOf(next));
  });
  return writeUpdate(outputPath, async (writer) => {
    await writer.write(controlledUpdateLayout(model).headerBytes);
    await writer.write(bytesOf(difference));
    await writer.write(bytesOf(change));
  });
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
