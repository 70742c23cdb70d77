import { OctomilError } from '@octomil/shared/errors';
import { formatTargetRule, parseTargetRule } from '@octomil/shared/features';
import type { Architecture } from '@octomil/shared/models';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { requireControllable } from './control-variates.js';
import type { ConfirmedSpec, ConfirmedSpecs, TrainingBase, TrainingRegistry } from './ports.js';
import type { ResolvedConfig } from './round-facts.js';
import { findBase, resolveConfig } from './session-base.js';
import { parseSessionConfig, type SessionConfig, type SessionReferences } from './session-config.js';
import { findFederation, type SessionFederation } from './session-federation.js';

export interface PreparerDependencies {
  readonly database: Database;
  readonly registry: TrainingRegistry;
  readonly confirmedSpecs: ConfirmedSpecs | undefined;
  readonly random: () => number;
}

/** A session that is asked for. */
export interface PreparedSession {
  readonly config: ResolvedConfig;
  readonly model: ModelRow;
  readonly federation: SessionFederation;
  readonly base: TrainingBase | undefined;
  readonly confirmed: ConfirmedSpec | undefined;
}

export interface ModelRow {
  readonly id: string;
  readonly name: string;
  readonly architecture: Architecture | null;
  readonly target: string | null;
}

/** Finds what requests for sessions refer to, and checks that it goes together. */
export class SessionPreparer {
  readonly #on: PreparerDependencies;

  constructor(dependencies: PreparerDependencies) {
    this.#on = dependencies;
  }

  /**
   * What a request asks for, with everything that it refers to.
   *
   * @throws `invalid_input`, `training_not_supported`, `model_not_found`, `version_not_found`, `not_found` (federation),
   * `conflict` (new version); `wrong_state` without the confirmed features that it asks for
   */
  async prepare(body: unknown, organizationId: string, { dryRun }: { dryRun?: boolean }): Promise<PreparedSession> {
    const randomSeed = Math.floor(this.#on.random() * 2 ** 31);
    const { config: asked, references } = parseSessionConfig(body, randomSeed);
    requireControllable(asked);
    const wanted =
      dryRun === true
        ? { ...asked, dryRun, trainer: asked.trainer === 'echo' ? 'tfjs' : asked.trainer, roundDeadlineSeconds: 30 }
        : asked;
    const { federation, model } = await this.#find(references, organizationId);
    if (wanted.newVersion !== null) await this.#requireFreeVersion(model, wanted.newVersion);
    const base = await findBase(this.#on.registry, model, wanted.baseVersion);
    const confirmed = await this.#confirmed(wanted, { organizationId, federation, model });
    const config = resolveConfig(wanted, model, base?.document, confirmed);
    return { config, model, federation, base, confirmed };
  }

  async #confirmed(
    { featureSpec, target }: SessionConfig,
    of: { organizationId: string; federation: { id: string; name: string }; model: ModelRow },
  ): Promise<ConfirmedSpec | undefined> {
    if (featureSpec === undefined) return undefined;
    const specs = this.#on.confirmedSpecs;
    if (specs === undefined) throw new OctomilError('internal', 'this coordinator keeps no proposals of features');
    const wanted = target ?? of.model.target;
    const rule = wanted === null ? null : formatTargetRule(parseTargetRule(wanted));
    return specs.confirmed(featureSpec, { ...of, target: rule });
  }

  async #find(
    references: SessionReferences,
    organizationId: string,
  ): Promise<{ federation: PreparedSession['federation']; model: ModelRow }> {
    const model = await this.model(organizationId, references.model);
    // The published clients name none.
    const { federation: name = 'default', mayMakeFederation } = references;
    return { model, federation: await findFederation(this.#on.database, organizationId, name, mayMakeFederation) };
  }

  async #requireFreeVersion(model: ModelRow, version: string): Promise<void> {
    const taken = await this.#on.database.kysely
      .selectFrom('versions')
      .select('id')
      .where('model_id', '=', model.id)
      .where('version', '=', version)
      .executeTakeFirst();
    if (taken !== undefined) {
      throw new OctomilError(
        'conflict',
        `model "${model.name}" has a version ${version} already; versions never change`,
      );
    }
  }

  /** By identifier or name. @throws `model_not_found` */
  async model(organizationId: string, reference: string): Promise<ModelRow> {
    const { rows } = await sql<ModelRow>`
      select id, name, architecture, target from models
      where organization_id = ${organizationId} and (id = ${reference} or lower(name) = lower(${reference}))
      order by (id = ${reference}) desc limit 1`.execute(this.#on.database.kysely);
    const model = rows[0];
    if (model !== undefined) return model;
    throw new OctomilError(
      'model_not_found',
      `there is no model "${reference.slice(0, 200)}"; create it first (octomil models ensure)`,
      {
        details: { field: 'model_id', value: reference.slice(0, 200) },
      },
    );
  }

  /** By identifier or name; owned, or joined. @throws `not_found` */
  federation(organizationId: string, reference: string): Promise<SessionFederation> {
    return findFederation(this.#on.database, organizationId, reference);
  }
}
