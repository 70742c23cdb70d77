import { OctomilError } from '@octomil/shared/errors';

/** Small and quick to large and able. */
export const TIERS = ['fast', 'balanced', 'quality'] as const;
export type Tier = (typeof TIERS)[number];

/** A model that queries can be sent to. */
export interface ModelInfo {
  readonly name: string;
  readonly tier: Tier;
  /** Billions of parameters; decides among models of one tier, smaller first. */
  readonly paramB?: number;
  /** In memory already: preferred within its tier. */
  readonly loaded?: boolean;
}

/**
 * Gives tiers to models listed from smallest to largest: one is balanced, of two one is fast and one quality, and of
 * more the first third is fast and the last third quality.
 *
 * @throws OctomilError `invalid_input` for a name that occurs twice
 */
export function assignTiers(names: readonly string[]): Record<string, ModelInfo> {
  const duplicate = names.find((name, index) => names.indexOf(name) !== index);
  if (duplicate !== undefined) {
    throw new OctomilError('invalid_input', `the model "${duplicate}" is listed twice`, {
      details: { model: duplicate },
    });
  }
  const third = Math.floor(names.length / 3);
  const tierAt = (index: number): Tier => {
    if (names.length === 1) return 'balanced';
    if (names.length === 2) return index === 0 ? 'fast' : 'quality';
    if (index < third) return 'fast';
    return index >= names.length - third ? 'quality' : 'balanced';
  };
  return Object.fromEntries(names.map((name, index) => [name, { name, tier: tierAt(index) }]));
}
