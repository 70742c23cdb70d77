import { OctomilError } from '@octomil/shared/errors';
import { type FeatureSpec, parseFeatureSpec, type SiteEntry } from '@octomil/shared/features';
import { type Kysely, type RawBuilder, sql, type UpdateObject } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject, ProposalState, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import type { ConfirmedSpec, ConfirmedSpecs } from '../training/index.js';

/** What a list shows: nothing whose size depends on sites and columns. */
export interface ProposalLine {
  readonly id: string;
  readonly organizationId: string;
  readonly federation: { readonly id: string; readonly name: string };
  readonly model: { readonly id: string; readonly name: string };
  readonly sessionId: string;
  readonly target: string;
  readonly state: ProposalState;
  readonly specHash: string;
  /** Of the spec as it was merged; another than `specHash` where a person has edited it. */
  readonly proposedHash: string;
  readonly columnCount: number;
  readonly createdAt: Date;
  readonly confirmedAt: Date | null;
  readonly endedAt: Date | null;
}

export interface Proposal extends ProposalLine {
  readonly request: JsonObject;
  readonly sites: readonly SiteEntry[];
  readonly warnings: readonly string[];
  readonly spec: FeatureSpec;
  readonly createdBy: string;
  readonly confirmedBy: string | null;
  readonly endedBy: string | null;
  readonly reason: string | null;
}

export interface NewProposal {
  readonly id: string;
  readonly organizationId: string;
  readonly federationId: string;
  readonly modelId: string;
  readonly sessionId: string;
  readonly target: string;
  readonly request: JsonObject;
  readonly sites: readonly SiteEntry[];
  readonly warnings: readonly string[];
  readonly spec: FeatureSpec;
  readonly createdBy: string;
}

export interface ProposalFilter {
  /** Also those of others, in federations that the organization owns or has joined. */
  readonly organizationId: string;
  readonly id?: string | undefined;
  readonly modelId?: string | undefined;
  readonly federationId?: string | undefined;
  readonly target?: string | undefined;
  readonly state?: ProposalState | undefined;
  readonly limit?: number | undefined;
  readonly offset?: number | undefined;
}

type Handle = Kysely<Tables>;

/** Statements about proposals. Of one federation, model and target at most one is confirmed, which an index holds. */
export class ProposalStore implements ConfirmedSpecs {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async insert(proposal: NewProposal): Promise<void> {
    await this.#database.kysely
      .insertInto('feature_proposals')
      .values({
        id: proposal.id,
        organization_id: proposal.organizationId,
        federation_id: proposal.federationId,
        model_id: proposal.modelId,
        session_id: proposal.sessionId,
        target: proposal.target,
        request: JSON.stringify(proposal.request),
        sites: JSON.stringify(proposal.sites),
        warnings: JSON.stringify(proposal.warnings),
        spec_hash: proposal.spec.hash,
        document: JSON.stringify(proposal.spec),
        proposed_hash: proposal.spec.hash,
        created_by: proposal.createdBy,
        confirmed_by: null,
        ended_by: null,
        reason: null,
      })
      .execute();
  }

  /** Newest first. */
  async list(filter: ProposalFilter): Promise<ProposalLine[]> {
    // The document is text, in which names may have escapes that jsonb refuses; to count columns they are not needed.
    const rows = await this.#select<LineRow>(
      filter,
      sql`p.id, p.organization_id, p.federation_id, p.model_id, p.session_id, p.target, p.state, p.spec_hash,
        p.proposed_hash, p.created_at, p.confirmed_at, p.ended_at,
        jsonb_array_length(
          regexp_replace(p.document, '\\\\(u[0-9a-f]{4}|.)', '', 'g')::jsonb -> 'columns') as column_count`,
    );
    return rows.map(lineOf);
  }

  async #whole(filter: ProposalFilter): Promise<Proposal[]> {
    return (await this.#select<ProposalRow>(filter, sql`p.*`)).map(proposalOf);
  }

  async #select<Row>(filter: ProposalFilter, fields: RawBuilder<unknown>): Promise<Row[]> {
    const { organizationId, id, modelId, federationId, target, state, limit = 100, offset = 0 } = filter;
    const { rows } = await sql<Row>`
      select ${fields}, f.name as federation_name, m.name as model_name
      from feature_proposals p join federations f on f.id = p.federation_id join models m on m.id = p.model_id
      where (p.organization_id = ${organizationId} or p.federation_id in (
          select id from federations where organization_id = ${organizationId}
          union all select federation_id from federation_members
            where organization_id = ${organizationId} and status = 'active'))
        ${id === undefined ? sql`` : sql`and p.id = ${id}`}
        ${modelId === undefined ? sql`` : sql`and p.model_id = ${modelId}`}
        ${federationId === undefined ? sql`` : sql`and p.federation_id = ${federationId}`}
        ${target === undefined ? sql`` : sql`and p.target = ${target}`}
        ${state === undefined ? sql`` : sql`and p.state = ${state}`}
      order by p.created_at desc, p.id limit ${limit}::integer offset ${offset}::integer`.execute(
      this.#database.kysely,
    );
    return rows;
  }

  /** @throws `not_found` for one that the organization cannot see */
  async get(organizationId: string, id: string): Promise<Proposal> {
    const [found] = await this.#whole({ organizationId, id });
    if (found === undefined) throw proposalNotFound(id);
    return found;
  }

  /**
   * Confirms a proposal, with the spec that a person may have edited; the one that was confirmed before is superseded.
   *
   * @param proposal as the spec was made of it: what has been confirmed meanwhile stays as it was confirmed
   * @throws `wrong_state` naming the state; `conflict` when another was confirmed at the same moment
   */
  async confirm(proposal: Proposal, spec: FeatureSpec, actor: string): Promise<void> {
    const from: readonly ProposalState[] = [proposal.confirmedAt === null ? 'proposed' : 'superseded'];
    try {
      await this.#database.transact(async (transaction) => {
        await sql`update feature_proposals set state = 'superseded', ended_by = ${actor}, ended_at = now(),
            reason = ${`proposal ${proposal.id} was confirmed`}
          where federation_id = ${proposal.federation.id} and model_id = ${proposal.model.id}
            and target = ${proposal.target} and state = 'confirmed' and id <> ${proposal.id}`.execute(transaction);
        await move(transaction, proposal.id, from, 'confirmed', {
          spec_hash: spec.hash,
          document: JSON.stringify(spec),
          confirmed_by: actor,
          confirmed_at: sql<Date>`now()`,
          ended_by: null,
          ended_at: null,
          reason: null,
        });
      });
    } catch (error) {
      if (violatedUnique(error) === undefined) throw error;
      throw new OctomilError('conflict', 'another proposal was confirmed at this moment; look at it first', {
        cause: error,
      });
    }
  }

  /** @throws `wrong_state` naming the state */
  async reject(id: string, actor: string, reason: string | null, from: readonly ProposalState[]): Promise<void> {
    await this.#database.transact((transaction) =>
      move(transaction, id, from, 'rejected', { ended_by: actor, ended_at: sql<Date>`now()`, reason }),
    );
  }

  async confirmed(reference: string, of: Parameters<ConfirmedSpecs['confirmed']>[1]): Promise<ConfirmedSpec> {
    if (reference === 'confirmed') return this.#only(of);
    const proposal = await this.get(of.organizationId, reference);
    if (proposal.organizationId !== of.organizationId) throw proposalNotFound(reference);
    if (proposal.model.id !== of.model.id || proposal.federation.id !== of.federation.id) {
      throw new OctomilError(
        'invalid_input',
        `proposal ${reference} is for model "${proposal.model.name}" in federation "${proposal.federation.name}"; this session trains "${of.model.name}" in "${of.federation.name}"`,
        { details: { field: 'feature_spec', value: reference } },
      );
    }
    if (proposal.state !== 'confirmed') {
      throw new OctomilError(
        'wrong_state',
        `proposal ${reference} is ${proposal.state}; training takes confirmed ones: octomil features confirm ${reference}`,
        { details: { field: 'feature_spec', value: reference, state: proposal.state } },
      );
    }
    return { proposalId: proposal.id, spec: proposal.spec };
  }

  async #only({ organizationId, federation, model, target }: Parameters<ConfirmedSpecs['confirmed']>[1]) {
    const found = await this.#whole({
      organizationId,
      modelId: model.id,
      federationId: federation.id,
      state: 'confirmed',
      limit: 2,
      ...(target === null ? {} : { target }),
    });
    const [first, second] = found.filter((proposal) => proposal.organizationId === organizationId);
    if (first === undefined) {
      const about = target === null ? '' : ` for target "${target}"`;
      throw new OctomilError(
        'wrong_state',
        `model "${model.name}" has no confirmed features${about} in federation "${federation.name}"; propose some and confirm them: octomil features propose --model ${quoted(model.name)} --federation ${quoted(federation.name)} --target ${quoted(target ?? '…')}`,
        { details: { field: 'feature_spec', value: 'confirmed' } },
      );
    }
    if (second !== undefined) {
      throw new OctomilError(
        'invalid_input',
        `model "${model.name}" has confirmed features for several targets, such as "${first.target}" and "${second.target}"; name one with target`,
        { details: { field: 'target' } },
      );
    }
    return { proposalId: first.id, spec: first.spec };
  }
}

async function move(
  transaction: Handle,
  id: string,
  from: readonly ProposalState[],
  to: ProposalState,
  fields: UpdateObject<Tables, 'feature_proposals'>,
): Promise<void> {
  const moved = await transaction
    .updateTable('feature_proposals')
    .set({ ...fields, state: to })
    .where('id', '=', id)
    .where('state', 'in', [...from])
    .returning('id')
    .execute();
  if (moved.length > 0) return;
  const row = await transaction.selectFrom('feature_proposals').select('state').where('id', '=', id).executeTakeFirst();
  throw new OctomilError('wrong_state', `proposal ${id} is ${row?.state ?? 'gone'}; it cannot become ${to}`, {
    details: { state: row?.state ?? null },
  });
}

export function proposalNotFound(id: string): OctomilError {
  return new OctomilError('not_found', `there is no proposal of features "${id.slice(0, 100)}"`);
}

/** As a shell takes it. */
function quoted(text: string): string {
  return /^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

interface LineRow {
  id: string;
  organization_id: string;
  federation_id: string;
  federation_name: string;
  model_id: string;
  model_name: string;
  session_id: string;
  target: string;
  state: ProposalState;
  spec_hash: string;
  proposed_hash: string;
  column_count: number;
  created_at: Date;
  confirmed_at: Date | null;
  ended_at: Date | null;
}

interface ProposalRow extends Omit<LineRow, 'column_count'> {
  request: JsonObject;
  sites: SiteEntry[];
  warnings: string[];
  document: string;
  created_by: string;
  confirmed_by: string | null;
  ended_by: string | null;
  reason: string | null;
}

function lineOf(row: LineRow): ProposalLine {
  return {
    id: row.id,
    organizationId: row.organization_id,
    federation: { id: row.federation_id, name: row.federation_name },
    model: { id: row.model_id, name: row.model_name },
    sessionId: row.session_id,
    target: row.target,
    state: row.state,
    specHash: row.spec_hash,
    proposedHash: row.proposed_hash,
    columnCount: row.column_count,
    createdAt: row.created_at,
    confirmedAt: row.confirmed_at,
    endedAt: row.ended_at,
  };
}

function proposalOf(row: ProposalRow): Proposal {
  const spec = parseFeatureSpec(JSON.parse(row.document));
  return {
    ...lineOf({ ...row, column_count: spec.columns.length }),
    request: row.request,
    sites: row.sites,
    warnings: row.warnings,
    spec,
    createdBy: row.created_by,
    confirmedBy: row.confirmed_by,
    endedBy: row.ended_by,
    reason: row.reason,
  };
}
