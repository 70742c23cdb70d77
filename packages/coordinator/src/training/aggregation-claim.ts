import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { RoundStore } from './round-store.js';

export interface ClaimHolder {
  readonly clock: Clock;
  readonly rounds: Pick<RoundStore, 'renew'>;
  readonly coordinatorId: string;
  readonly ownerLeaseMs: number;
}

/** Keeps the claim on an aggregation alive; `claim` aborts when it is lost. The result lets go of it. */
export function renewClaim(
  { clock, rounds, coordinatorId, ownerLeaseMs }: ClaimHolder,
  roundId: string,
  claim: AbortController,
): () => void {
  let cancel: () => void = () => undefined;
  const schedule = (): void => {
    cancel = clock.after(ownerLeaseMs / 3, () => {
      rounds.renew(roundId, coordinatorId, ownerLeaseMs).then(
        (mine) => {
          if (mine) schedule();
          else claim.abort(new OctomilError('cancelled', 'another coordinator took this aggregation over'));
        },
        () => schedule(),
      );
    });
  };
  schedule();
  return () => cancel();
}
