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
  // A renewal may be under way when the claim is let go: going on after it would keep the round from everybody for ever.
  let isHeld = true;
  const schedule = (): void => {
    if (!isHeld) return;
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
  return () => {
    isHeld = false;
    cancel();
  };
}
