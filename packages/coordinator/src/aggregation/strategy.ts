import { OctomilError } from '@octomil/shared/errors';
import type { Static, TObject } from 'typebox';
import { Value } from 'typebox/value';

/** A range of the parameters in the middle of an aggregation. All vectors have the same length. */
export interface StrategyRange {
  /** The round's base, x_t. */
  readonly base: Float32Array;
  /** The weighted mean of the devices' changes, Δ_t (the "pseudo-gradient" with its sign turned). May be overwritten. */
  readonly delta: Float64Array;
  /** Where x_{t+1} goes. */
  readonly next: Float32Array;
  /** One vector for each slot of the strategy's state, changed in place. */
  readonly state: readonly Float32Array[];
  /** Of a controlled strategy. */
  readonly control?: ControlRange;
  /** `next = float32(base + delta)`, on the fast kernel. */
  addDelta(): void;
}

/** How the server's control variate moves: c ← `stateShare`·c + `updateShare`·`change`. */
export interface ControlShares {
  /** Usually 1: what of the control variate so far stays. */
  readonly stateShare: number;
  /** |S|÷N: devices of this round by all that could take part. */
  readonly updateShare: number;
}

export interface ControlRange extends ControlShares {
  /** Mean of the changes of the devices' own control variates. */
  readonly change: Float64Array;
}

/** A vector as long as the model that a strategy carries from round to round. */
export interface StateSlot {
  readonly name: string;
  /** What every element is before the first round. */
  readonly initial: number;
}

/** The rule that turns a base and the weighted mean of the updates into the next checkpoint. */
export interface Strategy<Schema extends TObject = TObject> {
  readonly name: string;
  /** `equal`: every device's update counts the same. Default: by its samples. */
  readonly weighting?: 'samples' | 'equal';
  /** Updates hold the change of the device's control variate beside that of its weights, and `step` gets both. */
  readonly controlled?: boolean;
  /** Every option has a default and bounds. */
  readonly options: Schema;
  /** In the order of `StrategyRange.state`, which is that of their names. */
  slots(options: Static<Schema>): readonly StateSlot[];
  /** Elementwise, so ranges may come in any order and of any length. */
  step(range: StrategyRange, options: Static<Schema>): void;
}

/** A strategy with its options, checked and filled up with defaults. */
export interface PreparedStrategy {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly weighting: 'samples' | 'equal';
  readonly controlled: boolean;
  readonly slots: readonly StateSlot[];
  step(range: StrategyRange): void;
}

/**
 * Checks options and fills in the defaults.
 *
 * @throws `invalid_input` naming the option, its value and its bounds
 */
export function prepare<Schema extends TObject>(strategy: Strategy<Schema>, options: unknown = {}): PreparedStrategy {
  const filled = Value.Default(strategy.options, Value.Clone(options));
  if (!Value.Check(strategy.options, filled)) {
    const known = Object.keys(strategy.options.properties).join(', ') || 'none';
    const unknown = Object.keys(Object(options)).filter((name) => !Object.hasOwn(strategy.options.properties, name));
    if (unknown.length > 0) {
      throw new OctomilError(
        'invalid_input',
        `the strategy ${strategy.name} has no option ${unknown.join(', ')} (options: ${known})`,
      );
    }
    const [first] = Value.Errors(strategy.options, filled);
    const path = first?.instancePath.replace(/^\//, '') ?? '';
    const where =
      path === '' ? '' : ` "${path}" is ${JSON.stringify(Value.Pointer.Get(filled, first?.instancePath ?? ''))};`;
    throw new OctomilError(
      'invalid_input',
      `the options of the strategy ${strategy.name} are wrong:${where} it ${first?.message ?? 'does not fit'} (options: ${known})`,
    );
  }
  const checked = filled as Static<Schema>;
  return {
    name: strategy.name,
    options: checked as Readonly<Record<string, unknown>>,
    weighting: strategy.weighting ?? 'samples',
    controlled: strategy.controlled ?? false,
    slots: strategy.slots(checked),
    step: (range) => strategy.step(range, checked),
  };
}
