import { neededAbilities } from '@octomil/shared/training';
import type { Demand } from './eligibility.js';
import type { RoundFacts } from './round-facts.js';

/** Which devices a round can be given to. */
export function demandOf(facts: RoundFacts): Demand {
  const { federation, model, config } = facts;
  const { dataSet, trainer, selector, strategy } = config;
  const demand = { federation, model, dataSet, trainer, selector, abilities: abilitiesOf(facts) };
  // Whoever cannot train by it can still say how the result does.
  return facts.kind === 'evaluate' ? demand : { ...demand, strategy };
}

/** Of the round's task. Who is known to be unable to train does not describe either: its columns would bind the others. */
function abilitiesOf({ kind, config, featureSpec }: RoundFacts): string[] {
  const { personalization, hints, local } = config;
  switch (kind) {
    case 'describe':
      return neededAbilities({ personalization, hints, options: local });
    case 'train':
      return neededAbilities({ personalization, featureSpec, options: local });
    case 'evaluate':
      return neededAbilities({ personalization, featureSpec });
  }
}
