import { FEATURE_KINDS, type FeatureColumn, type FeatureHints, type FeatureSpec } from '@octomil/shared/features';
import type { LocalOptions } from './local-options.js';
import type { Personalization } from './personal/personalization.js';

const FIRST_KINDS: readonly FeatureColumn['kind'][] = ['numeric', 'boolean', 'categorical'];

/**
 * What an agent knows of tasks beyond their first form, as it says when it connects. An older one would take no notice of a
 * personalization and send what should stay, or describe without hints, or fail at a column that it cannot read.
 */
export const ABILITIES: readonly string[] = [
  'personalization',
  'hints',
  'column_details',
  'target_reference',
  'class_weights',
  'early_stop',
  'max_steps',
  ...FEATURE_KINDS.filter((kind) => !FIRST_KINDS.includes(kind)),
];

/** What of a task may need more of an agent than its first form did. */
export interface TaskParts {
  readonly personalization?: Personalization | undefined;
  readonly hints?: FeatureHints | undefined;
  readonly featureSpec?: FeatureSpec | undefined;
  readonly options?: LocalOptions | undefined;
}

/** Those of {@link ABILITIES} that a task with these parts asks of an agent. */
export function neededAbilities({ personalization, hints, featureSpec, options }: TaskParts): string[] {
  const columns = featureSpec?.columns ?? [];
  const wanted: Readonly<Record<string, boolean>> = {
    personalization: personalization !== undefined,
    hints: hints !== undefined,
    column_details: columns.some((column) => DETAILS.some((detail) => detail in column)),
    target_reference: featureSpec?.target.reference !== undefined,
    class_weights: options?.classWeights !== undefined,
    early_stop: options?.earlyStop !== undefined,
    max_steps: options?.maxSteps !== undefined,
  };
  const kinds = new Set<string>(columns.map(({ kind }) => kind));
  return ABILITIES.filter((ability) => wanted[ability] ?? kinds.has(ability));
}

/** Fields that the first form of columns did not have. */
const DETAILS = ['aliases', 'unit', 'units', 'range', 'reference', 'clip', 'scale'] as const;
