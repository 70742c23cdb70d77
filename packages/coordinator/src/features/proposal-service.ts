import { randomUUID } from 'node:crypto';
import { foldName } from '@octomil/shared/data';
import { isErrorCode, OctomilError } from '@octomil/shared/errors';
import { type FeatureHint, type FeatureSpec, formatTargetRule } from '@octomil/shared/features';
import type { JsonObject, ProposalState } from '../database/tables.js';
import { type AgreementRequest, agreeOnFeatures, awaitSession, type TrainingEngine } from '../training/index.js';
import { confirmedSpec } from './confirm-spec.js';
import type { Proposal, ProposalStore } from './proposal-store.js';

/** What a proposal is asked for; null and absent mean the same. */
export interface ProposalRequest {
  readonly model: string;
  readonly federation?: string | null;
  readonly create_federation?: boolean | null;
  readonly target?: string | null;
  readonly architecture?: string | JsonObject | null;
  readonly hints?: Readonly<Record<string, JsonObject>> | null;
  readonly missing_markers?: Readonly<Record<string, readonly (string | number)[]>> | null;
  readonly exclude?: readonly string[] | null;
  readonly data_set?: string | null;
  readonly selector?: Readonly<Record<string, string>> | null;
}

export interface Asker {
  readonly organizationId: string;
  /** Kept as who asked: a key's id. */
  readonly name: string;
}

const MAX_WARNINGS = 1_000;
/** A column's encoding does not depend on the model unless that is a network for images. */
const ANY_TABLE_MODEL = 'logistic';
const REJECTABLE: readonly ProposalState[] = ['proposed', 'confirmed', 'superseded'];
const UNABLE: ReadonlySet<string> = new Set(['refused', 'failed', 'expired']);

/** Features that people look at before training uses them. */
export class ProposalService {
  readonly store: ProposalStore;
  readonly #engine: TrainingEngine;

  constructor({ store, engine }: { store: ProposalStore; engine: TrainingEngine }) {
    this.store = store;
    this.#engine = engine;
  }

  /**
   * Lets the sites describe their columns, merges what they tell, and keeps it for a person to look at.
   *
   * @throws as a session that is begun; `insufficient_devices` when no site answered; `data_mismatch` where the sites
   * cannot agree, naming the site
   */
  async propose(request: ProposalRequest, asker: Asker, signal: AbortSignal): Promise<Proposal> {
    const { sessions, store: sessionStore } = this.#engine;
    const model = await sessions.model(asker.organizationId, request.model);
    const { hints, ...rest } = request;
    const body = {
      ...rest,
      architecture: request.architecture ?? model.architecture ?? ANY_TABLE_MODEL,
      ...(hints == null ? {} : { features: { hints } }),
      // Whatever versions there are: a proposal says how rows will be encoded, not how they were.
      base_version: 'initial',
    };
    const { refused, eligible, federation } = await sessions.sites(body, asker);
    if (federation.isNew === true && eligible.length === 0) {
      throw new OctomilError(
        'insufficient_devices',
        [
          `there is no federation "${federation.name}" yet, and no connected site would take part in it`,
          ...refused.map(({ name, reason }) => `site "${name}" would not take part: ${reason}`),
        ]
          .join('; ')
          .slice(0, 4_000),
      );
    }
    const { id: sessionId, roundId } = await sessions.create(body, asker, { dryRun: true });
    await awaitSession(this.#engine, sessionId, signal);
    const [session] = await sessionStore.findSessions({ organizationId: asker.organizationId, id: sessionId });
    if (session === undefined) throw new OctomilError('internal', `session ${sessionId} is gone`);
    const sites = await this.#engine.described(roundId);
    const asked = await sessionStore.assignments(roundId);
    const silent = [
      ...refused.map(({ name, reason }) => `site "${name}" would not take part: ${reason}`),
      ...asked
        .filter(({ state }) => UNABLE.has(state))
        .map(({ deviceName, reason, state }) => `site "${deviceName}" described nothing: ${reason ?? state}`),
    ];
    if (sites.length === 0) {
      const code = isErrorCode(session.reasonCode) ? session.reasonCode : 'insufficient_devices';
      throw new OctomilError(
        code,
        [session.reason ?? 'no site has described its data; are their agents connected?', ...silent].join('; '),
      );
    }
    const { spec, warnings } = agreeOnFeatures(session.config, sites, false);
    const proposal = {
      id: randomUUID(),
      organizationId: asker.organizationId,
      federationId: session.federationId,
      modelId: session.modelId,
      sessionId,
      target: targetOf(spec),
      request: requestOf(session.config),
      sites,
      warnings: [...warnings, ...silent].slice(0, MAX_WARNINGS),
      spec,
      createdBy: asker.name,
    };
    await this.store.insert(proposal);
    return this.store.get(asker.organizationId, proposal.id);
  }

  /**
   * @param edited the spec as a person changed it; undefined: as it was proposed
   * @throws `invalid_input` naming the column that is contradicted by what the sites told; `wrong_state`; `forbidden` for
   * another member's
   */
  async confirm(id: string, edited: unknown, asker: Asker): Promise<Proposal> {
    const proposal = await this.#own(id, asker);
    const spec =
      edited === undefined ? proposal.spec : confirmedSpec(edited, proposal.spec, proposal.sites, maker(proposal));
    if (proposal.confirmedAt !== null && spec.hash !== proposal.spec.hash) {
      throw new OctomilError(
        'wrong_state',
        `proposal ${id} was confirmed and is ${proposal.state}; sessions may have trained by it, so propose again to change it`,
        { details: { state: proposal.state } },
      );
    }
    if (proposal.state === 'confirmed') return proposal;
    await this.store.confirm(proposal, spec, asker.name);
    return this.store.get(asker.organizationId, id);
  }

  /** @throws `wrong_state`, `forbidden` */
  async reject(id: string, reason: string | null, asker: Asker): Promise<Proposal> {
    await this.#own(id, asker);
    await this.store.reject(id, asker.name, reason, REJECTABLE);
    return this.store.get(asker.organizationId, id);
  }

  async #own(id: string, asker: Asker): Promise<Proposal> {
    const proposal = await this.store.get(asker.organizationId, id);
    if (proposal.organizationId === asker.organizationId) return proposal;
    throw new OctomilError(
      'forbidden',
      `proposal ${id} is another member's of federation "${proposal.federation.name}"; only the organization that asked for it may confirm or reject it`,
    );
  }
}

/** What decides the merge, so that an edited column can be made again from what the sites told. */
function requestOf(config: AgreementRequest): JsonObject {
  const { architecture, output, target, missingMarkers, exclude, hints, inputWidth } = config;
  return {
    architecture,
    output,
    target,
    missingMarkers,
    exclude,
    ...(hints === undefined ? {} : { hints }),
    inputWidth,
  };
}

function maker({ request, sites }: Proposal) {
  const asked = request as unknown as AgreementRequest;
  return (name: string, hints: Readonly<Record<string, unknown>>) => {
    const others = Object.fromEntries(
      Object.entries(asked.hints ?? {}).filter(([column]) => foldName(column) !== foldName(name)),
    );
    const exclude = asked.exclude.filter((column) => foldName(column) !== foldName(name));
    const wished = { ...others, [name]: hints as FeatureHint };
    const { spec } = agreeOnFeatures({ ...asked, exclude, hints: wished }, sites, false);
    return spec.columns.find((column) => foldName(column.name) === foldName(name));
  };
}

function targetOf({ target }: FeatureSpec): string {
  return formatTargetRule(target.rule);
}
