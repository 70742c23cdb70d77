import { type CodeListing, readCode } from '@octomil/shared/training';
import type { AgentConfig } from '../config/agent-config.js';
import { policyNow } from './paused.js';
import { decide, isCodeAllowed, type PolicyQuestion, type PolicyResources } from './policy.js';

/** A trainer of the site's own, as it is on disk now. */
export interface OwnTrainerState extends CodeListing {
  readonly trainer: string;
  /** Whether the policy allows this digest. */
  readonly allowed: boolean;
}

/** @throws OctomilError `config_invalid` when files are missing */
export async function ownTrainerStates(config: AgentConfig): Promise<OwnTrainerState[]> {
  return Promise.all(
    Object.entries(config.trainers).map(async ([trainer, code]) => {
      const listing = await readCode(code);
      return { trainer, allowed: isCodeAllowed(config.policy, trainer, listing.sha256), ...listing };
    }),
  );
}

export interface PolicyExplanation {
  readonly allowed: boolean;
  /** That allows it. */
  readonly rule: string | null;
  /** Why not. */
  readonly reason: string | null;
  /** Names of the columns that the rule lets out; null: all. */
  readonly columns: readonly string[] | null;
  /** Digest of the trainer's code; null for tfjs and echo. */
  readonly codeSha256: string | null;
  /** What work may take of this machine; empty: whatever there is. */
  readonly resources: PolicyResources;
}

/**
 * What the site would answer, by its policy and the code on its disk. Hours are those of now; conditions of the machine are
 * the doctor's matter.
 *
 * @throws OctomilError `config_invalid` when the trainer's files are missing
 */
export async function explainPolicy(
  config: AgentConfig,
  question: PolicyQuestion,
  trainer = 'tfjs',
): Promise<PolicyExplanation> {
  const decision = decide(policyNow(config), question);
  const resources = config.policy.resources ?? {};
  const none = { rule: null, columns: null, codeSha256: null, resources };
  if (!decision.allowed) return { allowed: false, ...none, reason: decision.problem.reason };
  const { rule, columns = null } = decision;
  const code = config.trainers[trainer];
  if (code === undefined) {
    const known = trainer === 'tfjs' || trainer === 'echo';
    const reason = known ? null : `trainers in the configuration has no "${trainer}"`;
    return { allowed: known, ...none, rule: known ? rule : null, columns, reason };
  }
  const { sha256 } = await readCode(code);
  const allowed = isCodeAllowed(config.policy, trainer, sha256);
  const reason = allowed
    ? null
    : `rule "${rule}" holds, but the code of trainer "${trainer}" is not allowed: add { trainer: ${trainer}, sha256: ${sha256} } to the policy's code.allow once it was looked at`;
  return { allowed, rule: allowed ? rule : null, columns, reason, codeSha256: sha256, resources };
}
