import { OctomilClientError } from '../client-error.js';
import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import { listOf } from '../training-session.js';
import { snakeNames } from '../wire-names.js';
import { wirePath } from '../wire-path.js';
import {
  type DriftReport,
  type FeatureHints,
  type FeatureProposal,
  type FeatureSpecJson,
  type ProposalState,
  type ProposalSummary,
  readDrift,
  readProposal,
  readSummary,
} from './feature-proposal.js';

export interface ProposeOptions {
  /** Name or id. */
  readonly model: string;
  /** Name or id. Default: the organization's own, `default`. */
  readonly federation?: string;
  /** Makes the federation of that name where there is none, once there are sites to ask. Default: no. */
  readonly createFederation?: boolean;
  /** What to learn, such as `num>0`. Default: the model's. */
  readonly target?: string;
  /** Only a network for images changes what is proposed. Default: the model's. */
  readonly architecture?: string | Readonly<Record<string, unknown>>;
  readonly hints?: FeatureHints;
  /** Values that mean "missing", by column, such as `{ chol: [0] }`. */
  readonly missingMarkers?: Readonly<Record<string, readonly (string | number)[]>>;
  readonly exclude?: readonly string[];
  readonly dataSet?: string;
  /** Only devices with these labels. */
  readonly selector?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export interface ProposalFilter {
  readonly model?: string;
  readonly federation?: string;
  readonly target?: string;
  readonly state?: ProposalState;
  /** Default 100, at most 1,000. */
  readonly limit?: number;
  readonly offset?: number;
  readonly signal?: AbortSignal;
}

/** Sites are given half a minute. */
const PROPOSE_TIMEOUT_MS = 60_000;

/**
 * How columns become numbers: proposed by what sites tell of theirs, looked at and confirmed by people.
 *
 * ```ts
 * const proposal = await client.features.propose({ model: 'heart', federation: 'cardiology', target: 'num>0' });
 * await client.features.confirm(proposal.id);
 * await federation.train({ model: 'heart', target: 'num>0', featureSpec: 'confirmed' });
 * ```
 */
export class Features {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
  }

  /**
   * Asks every site that would take part to describe its columns: takes seconds, and reads no row away from its site.
   *
   * @throws OctomilClientError `insufficient_devices` when none answers; `data_mismatch` where they cannot agree, naming
   * the site; `invalid_input` for a hint, naming the column
   */
  async propose(options: ProposeOptions): Promise<FeatureProposal> {
    const { signal, ...rest } = options;
    const answer = await this.#http.json('POST', '/features/proposals', {
      json: snakeNames(rest),
      signal,
      timeoutMs: PROPOSE_TIMEOUT_MS,
    });
    return readProposal(answer);
  }

  /** Newest first. */
  async list(filter: ProposalFilter = {}): Promise<ProposalSummary[]> {
    const { signal, ...query } = filter;
    const answer = await this.#http.json('GET', '/features/proposals', { query, signal });
    return listOf(answer, 'proposals').map(readSummary);
  }

  /** @throws OctomilClientError `not_found` */
  async get(id: string, signal?: AbortSignal): Promise<FeatureProposal> {
    return readProposal(await this.#http.json('GET', wirePath('features', 'proposals', id), { signal }));
  }

  /**
   * Confirms a proposal; the one confirmed before for the same federation, model and target is superseded.
   *
   * @param proposal its id; or the proposal, whose `spec` may have been edited: columns dropped, kinds, levels, aliases
   * @throws OctomilClientError `invalid_input` naming the column that is contradicted by what the sites told;
   * `wrong_state`, `forbidden`
   */
  async confirm(
    proposal: string | { readonly id: string; readonly spec: FeatureSpecJson | Readonly<Record<string, unknown>> },
    signal?: AbortSignal,
  ): Promise<FeatureProposal> {
    const [id, json] = typeof proposal === 'string' ? [proposal, {}] : [proposal.id, { spec: proposal.spec }];
    if (typeof id !== 'string' || id === '') {
      throw new OctomilClientError('invalid_input', 'the proposal has no id; give the one that "propose" returned');
    }
    return readProposal(
      await this.#http.json('POST', wirePath('features', 'proposals', id, 'confirm'), { json, signal }),
    );
  }

  /** Also takes a confirmation back. @throws OctomilClientError `wrong_state`, `forbidden` */
  async reject(
    id: string,
    options: { readonly reason?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FeatureProposal> {
    const { signal, ...json } = options;
    return readProposal(
      await this.#http.json('POST', wirePath('features', 'proposals', id, 'reject'), { json, signal }),
    );
  }

  /** Round by round, how far each site's rows are from what the spec was made of. @throws OctomilClientError `not_found` */
  async drift(sessionId: string, signal?: AbortSignal): Promise<DriftReport> {
    return readDrift(await this.#http.json('GET', wirePath('training', 'sessions', sessionId, 'drift'), { signal }));
  }
}
