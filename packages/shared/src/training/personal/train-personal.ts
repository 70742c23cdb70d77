import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Dataset, FeatureSpec } from '@octomil/shared/features';
import {
  type Architecture,
  type BuiltModel,
  encodeModelDocument,
  getFlat,
  modelDocument,
  setFlat,
} from '@octomil/shared/models';
import { type LayoutTensor, unflatten } from '@octomil/shared/tensors';
import { evaluate } from '../evaluate.js';
import { proximalTerm } from '../gradient-terms.js';
import type { LocalOptions } from '../local-options.js';
import type { EvaluationMetrics } from '../metrics.js';
import type { EvaluateTask, PersonalReport, TfjsTrainTask } from '../task.js';
import { type LocalTrainingOptions, trainLocally } from '../train-locally.js';
import {
  keepPersonal,
  type PersonalIdentity,
  type PersonalPlace,
  type PersonalState,
  readKept,
  requireRoom,
} from './personal-folder.js';
import { localTensors, type Personalization } from './personalization.js';

type PersonalTask = Pick<
  TfjsTrainTask | EvaluateTask,
  'kind' | 'personalization' | 'personal' | 'architecture' | 'featureSpec'
>;

/** What the global model was trained with. */
export interface PersonalTraining {
  readonly output: Architecture['output'];
  readonly rows: Dataset;
  readonly heldOut: Dataset;
  readonly local: LocalOptions;
  readonly more: LocalTrainingOptions;
}

/**
 * The site's own part of a model in one task.
 *
 * Layers that stay local (FedBN, FedPer) are put into the base before it is evaluated and trained; afterwards what they
 * learned is kept here and the update says of them what the base does. Ditto's personal model v is a second one: it is
 * trained after the global one with steps and an optimizer of its own on F(v) + λ/2·‖v − w‖², w being the round's base.
 */
export class PersonalPart {
  /** The base with the site's own layers in place. */
  readonly start: Float32Array;
  readonly #base: Float32Array;
  readonly #built: BuiltModel;
  readonly #personalization: Personalization;
  readonly #place: PersonalPlace;
  readonly #identity: PersonalIdentity;
  readonly #local: readonly LayoutTensor[];
  readonly #keptState: PersonalState | undefined;
  readonly #keptReason: string | undefined;
  readonly #document: Uint8Array;
  /** Ditto's v. */
  #model: Float32Array;

  private constructor(
    task: PersonalTask & Required<Pick<TfjsTrainTask, 'personalization' | 'personal'>>,
    built: BuiltModel,
    base: Float32Array,
    identity: PersonalIdentity,
    local: readonly LayoutTensor[],
    kept: Awaited<ReturnType<typeof readKept>>,
  ) {
    this.#built = built;
    this.#base = base;
    this.#personalization = task.personalization;
    this.#place = task.personal;
    this.#identity = identity;
    this.#local = local;
    this.#keptState = kept.state;
    this.#keptReason = kept.state === undefined ? kept.reason : undefined;
    this.#document = encodeModelDocument(
      modelDocument(
        task.architecture,
        built.plan.inputShape.reduce((a, b) => a * b, 1),
        task.featureSpec,
      ),
    );
    this.#model = base.slice();
    if (kept.state !== undefined) {
      const places = new Map(built.layout.tensors.map((tensor) => [tensor.name, tensor.offset]));
      for (const { name, data } of kept.tensors) this.#model.set(data, places.get(name) ?? 0);
    }
    this.start = task.personalization.method === 'ditto' ? base : this.#model;
  }

  /**
   * Reads what the site keeps. Nothing kept, or nothing that fits: the base takes its place, and the report says why.
   *
   * @param base the round's weights, in the order of the model's layout
   * @throws OctomilError `invalid_input` for layers that the model does not have; as `requireRoom`
   */
  static async open(task: PersonalTask, built: BuiltModel, base: Float32Array): Promise<PersonalPart | undefined> {
    const { personalization, personal, architecture, featureSpec } = task;
    if (personalization === undefined) return undefined;
    if (personal === undefined)
      throw new OctomilError('internal', 'a personalization needs a folder to keep its part in');
    const names = new Set(localTensors(personalization, built.plan, architecture));
    const local = built.layout.tensors.filter(({ name }) => names.has(name));
    const identity: PersonalIdentity = {
      method: personalization.method,
      modelSha256: modelSha256(architecture, featureSpec),
      tensors: personalization.method === 'ditto' ? built.layout.tensors : local,
    };
    // Before the work: a training whose part cannot be kept is for nothing.
    if (task.kind === 'train') await requireRoom(personal);
    // A training that is done again starts from what it started from; an evaluation is of what there is.
    const kept = await readKept(task.kind === 'evaluate' ? { path: personal.path } : personal, identity);
    return new PersonalPart({ ...task, personalization, personal }, built, base, identity, local, kept);
  }

  /**
   * Ends a training: trains the personal model (Ditto), keeps the site's own part, and leaves in `trained` what may leave.
   *
   * @param trained weights after training; those of layers that stay become the base's
   * @throws OctomilError as `trainLocally`; `insufficient_storage`
   */
  async finish(
    trained: Float32Array,
    training: PersonalTraining,
  ): Promise<{ personalization: PersonalReport; personal?: EvaluationMetrics | null }> {
    if (this.#personalization.method === 'ditto') {
      const personal = await this.#trainDitto(this.#personalization, training);
      await this.#keep(this.#model);
      return { personalization: this.#report(), personal };
    }
    await this.#keep(trained);
    for (const { offset, size } of this.#local) trained.set(this.#base.subarray(offset, offset + size), offset);
    return { personalization: this.#report() };
  }

  async #trainDitto(
    ditto: Extract<Personalization, { method: 'ditto' }>,
    { output, rows, heldOut, local, more }: PersonalTraining,
  ): Promise<EvaluationMetrics | null> {
    const { lambda, epochs = local.epochs, learningRate = local.learningRate } = ditto;
    setFlat(this.#built, this.#model);
    const own = { ...local, epochs, learningRate, proximalMu: 0 };
    const terms = lambda > 0 ? [proximalTerm(lambda, this.#base)] : [];
    const onProgress: LocalTrainingOptions['onProgress'] = (progress) => {
      // Without the rows: what leaves of it is that there is progress.
      const { rows: _, ...told } = progress;
      more.onProgress?.(told);
    };
    await trainLocally(this.#built, output, rows, own, { ...more, terms, onProgress });
    this.#model = await getFlat(this.#built);
    return evaluate(this.#built, output, heldOut, more.signal);
  }

  #keep(flat: Float32Array): Promise<void> {
    const bad = flat.find((value) => !Number.isFinite(value));
    if (bad !== undefined) {
      throw new OctomilError('training_failed', `a weight became ${bad}; try a smaller learning rate`);
    }
    const names = new Set(this.#identity.tensors.map(({ name }) => name));
    const tensors = unflatten(this.#built.layout, flat).filter(({ name }) => names.has(name));
    return keepPersonal(this.#place, this.#identity, this.#keptState, tensors, this.#document);
  }

  #report(): PersonalReport {
    return {
      method: this.#personalization.method,
      stayed: this.#local.map(({ name }) => name),
      startedFrom: this.#keptState === undefined ? 'base' : 'kept',
      ...(this.#keptReason === undefined ? {} : { reason: this.#keptReason }),
    };
  }
}

/**
 * Identifies a model and its inputs. How columns are scaled is left out: that follows from the data, which grow, and a site's
 * own part would be lost each time they do.
 */
export function modelSha256(architecture: Architecture, spec: FeatureSpec): string {
  const columns = spec.columns.map((column) =>
    Object.entries(column)
      .filter(([key]) => !SCALING.has(key))
      .map(([key, value]) =>
        key === 'parts' && column.kind === 'datetime' ? [key, column.parts.map(({ part }) => part)] : [key, value],
      )
      .sort(([left], [right]) => (left < right ? -1 : 1)),
  );
  const { rule, classes } = spec.target;
  return createHash('sha256')
    .update(JSON.stringify([architecture, spec.layout, columns, rule, classes]))
    .digest('hex');
}

const SCALING = new Set(['mean', 'deviation', 'range', 'reference', 'aliases', 'unit', 'units', 'missingMarkers']);
