import { OctomilError } from '@octomil/shared/errors';
import { controlledUpdateLayout, type ParameterLayout } from '@octomil/shared/tensors';
import type { UpdateMeasure } from '../aggregation/aggregation-job.js';
import { isControlled } from '../aggregation/strategies.js';
import type { ControlShares } from '../aggregation/strategy.js';
import type { StoredFile } from './ports.js';
import type { BaseCheckpoint, RoundFacts } from './round-facts.js';
import type { AcceptedAnswer } from './round-store.js';
import type { SessionConfig } from './session-config.js';

/** More devices than this are not counted: nobody keeps a control variate that is asked so seldom. */
export const MAX_POPULATION = 20_000;

/** In an update's metrics, of a device that lost the control variate that the server counts on. */
export const LOST_CONTROL_VARIATE = 'controlVariateLost';

/**
 * The server's control variate that a round starts from; `undefined` in a session's first: a version that was trained on
 * may have left one, but sessions start with zeros on both sides.
 */
export function serverControl({
  config,
  number,
  base,
}: Pick<RoundFacts, 'config' | 'number' | 'base'>): StoredFile | undefined {
  const { stateKey = null, control } = base ?? {};
  if (!isControlled(config.strategy) || number <= 1 || stateKey === null || control === undefined) return undefined;
  return { objectKey: stateKey, sha256: control.sha256, sizeBytes: control.sizeBytes };
}

export interface UpdateRule {
  readonly layout: ParameterLayout;
  /** The first parameter that counts for the norm. */
  readonly measuredFrom: number;
}

const controlledLayouts = new WeakMap<ParameterLayout, ParameterLayout>();

/** What an update must look like. @param model layout of the round's base */
export function updateRule(config: Pick<SessionConfig, 'strategy'>, model: ParameterLayout): UpdateRule {
  if (!isControlled(config.strategy)) return { layout: model, measuredFrom: 0 };
  const layout = controlledLayouts.get(model) ?? controlledUpdateLayout(model);
  controlledLayouts.set(model, layout);
  return { layout, measuredFrom: model.totalParams };
}

/** Single precision, twice: the update's halves were rounded each for itself. */
const ROUNDING = 1e-3;

/**
 * A control variate changes by (x − y_i) ÷ (K·η) − c, so that it cannot be further than that from c: whoever is held to a
 * norm of weights is held to one here. K is told by nobody; an epoch has a step at least.
 *
 * @throws `update_rejected`
 */
export function checkControlNorm(
  { normL2, controlNormL2 }: UpdateMeasure,
  facts: Pick<RoundFacts, 'config' | 'number' | 'base'>,
): void {
  const { strategy, local } = facts.config;
  if (!isControlled(strategy)) return;
  const leastSteps = Math.min(local.epochs, local.maxSteps ?? Number.POSITIVE_INFINITY);
  const server = serverControl(facts) === undefined ? 0 : (facts.base?.control?.normL2 ?? Number.POSITIVE_INFINITY);
  const limit = (normL2 / (leastSteps * local.learningRate) + server) * (1 + ROUNDING);
  if (controlNormL2 <= limit) return;
  throw new OctomilError(
    'update_rejected',
    `the change of the control variate has a norm of ${controlNormL2}; weights that moved by ${normL2} in at least ${leastSteps} steps of ${local.learningRate} change it by no more than ${limit}`,
  );
}

/** So often a device may lose its control variate in a session, and with it everybody's. */
export const MAX_LOSSES = 3;

/**
 * Checks an update that says that its device has lost its control variate: all start over then, so nobody may say so at
 * will.
 *
 * @param known what completed rounds of the session know of the device
 * @throws `update_rejected`
 */
export function checkLoss(known: { readonly isCountedOn: boolean; readonly losses: number }): void {
  if (!known.isCountedOn) {
    throw new OctomilError('update_rejected', 'the device has lost no control variate: none of it is counted on');
  }
  if (known.losses < MAX_LOSSES) return;
  throw new OctomilError(
    'update_rejected',
    `the device has lost its control variate ${known.losses} times in this session, and all started over each time; keep its state_dir between rounds`,
  );
}

/** How a round moves the server's control variate, for its records and for the aggregation. */
export interface ControlStep {
  readonly shares: ControlShares;
  /** N: devices that could take part, at least those that did. */
  readonly population: number;
  /** Both sides start over with zeros. */
  readonly restarted: boolean;
}

/**
 * The server's control variate is the mean of those of all N devices, of which the ones never asked have zeros. Devices
 * that joined since the round before bring zeros, so the mean shrinks; those that left are taken to have had the mean. A
 * device that lost its own makes the server's wrong for good, so all start over.
 */
export function controlStep(
  answers: readonly Pick<AcceptedAnswer, 'metrics'>[],
  counted: number,
  base: Pick<BaseCheckpoint, 'control'>,
): ControlStep {
  const population = Math.max(counted, answers.length);
  const restarted = answers.some(({ metrics }) => metrics[LOST_CONTROL_VARIATE] === true);
  if (restarted) return { shares: { stateShare: 0, updateShare: 0 }, population, restarted };
  const before = base.control?.population ?? population;
  const shares = { stateShare: Math.min(1, before / population), updateShare: answers.length / population };
  return { shares, population, restarted };
}

/** @throws `invalid_input`, `training_not_supported` for what a controlled strategy cannot be combined with */
export function requireControllable(
  config: Pick<SessionConfig, 'strategy' | 'trainer' | 'admission' | 'updateFormat' | 'local'> & {
    readonly personalization?: { readonly method: string } | null;
  },
): void {
  const { strategy, trainer, admission, updateFormat, local, personalization } = config;
  if (!isControlled(strategy)) return;
  const unsupported = (what: string): never => {
    throw new OctomilError('training_not_supported', `the strategy ${strategy} ${what}`);
  };
  if (trainer !== 'tfjs')
    unsupported(`corrects every step of training, so it needs trainer = "tfjs", not "${trainer}"`);
  if (admission === 'open')
    unsupported('needs sites that keep a control variate; clients of admission = "open" do not');
  if (personalization != null) {
    unsupported(`cannot be combined with personalization = "${personalization.method}"; leave one of them out`);
  }
  const invalid = (field: string, reason: string): never => {
    throw new OctomilError('invalid_input', `${field}: the strategy ${strategy} ${reason}`, { details: { field } });
  };
  if (updateFormat !== 'delta') invalid('update_format', `needs "delta", not "${updateFormat}"`);
  if (local.optimizer !== 'sgd') {
    invalid('local.optimizer', `is defined for plain SGD, without momentum: use "sgd", not "${local.optimizer}"`);
  }
  if (local.proximalMu !== 0) invalid('local.proximal_mu', 'has a correction of its own; leave proximal_mu out');
}
