import { OctomilError } from '@octomil/shared/errors';
import { fedAdagrad } from './fed-adagrad.js';
import { fedAdam } from './fed-adam.js';
import { fedAvg } from './fed-avg.js';
import { fedAvgM } from './fed-avg-m.js';
import { fedProx } from './fed-prox.js';
import { fedYogi } from './fed-yogi.js';
import { scaffold } from './scaffold.js';
import { type PreparedStrategy, prepare } from './strategy.js';

/** What a session uses when it names none. */
export const DEFAULT_STRATEGY = 'fedavg';

/** A new strategy is one file and one line here. */
const PREPARE: Readonly<Record<string, (options?: unknown) => PreparedStrategy>> = {
  fedavg: (options) => prepare(fedAvg, options),
  fedprox: (options) => prepare(fedProx, options),
  fedavgm: (options) => prepare(fedAvgM, options),
  fedadam: (options) => prepare(fedAdam, options),
  fedyogi: (options) => prepare(fedYogi, options),
  fedadagrad: (options) => prepare(fedAdagrad, options),
  scaffold: (options) => prepare(scaffold, options),
};

/** Whether devices keep control variates for it: see `Strategy.controlled`. */
export function isControlled(strategy: string): boolean {
  return strategy === scaffold.name;
}

export const STRATEGY_NAMES: readonly string[] = Object.keys(PREPARE);

/**
 * The strategy of that name, in any case, with its options checked and filled up with defaults.
 *
 * @throws `invalid_input` for an unknown name, listing the known ones, or for a wrong option
 */
export function strategyByName(name: string, options?: unknown): PreparedStrategy {
  const known = name.toLowerCase();
  const prepareIt = Object.hasOwn(PREPARE, known) ? PREPARE[known] : undefined;
  if (prepareIt === undefined) {
    throw new OctomilError('invalid_input', `unknown strategy "${name}"; known are ${STRATEGY_NAMES.join(', ')}`);
  }
  return prepareIt(options ?? {});
}
