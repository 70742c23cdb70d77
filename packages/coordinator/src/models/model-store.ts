import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type RawBuilder, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { GatheredReads } from '../database/gathered-reads.js';
import type { ModelsTable, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';

export type Model = Selectable<ModelsTable>;

export interface ModelFields {
  readonly name: string;
  readonly framework?: string | null;
  readonly framework_version?: string | null;
  readonly use_case?: string | null;
  readonly description?: string;
  readonly is_baseline?: boolean;
}

export interface ModelFilter {
  readonly framework?: string;
  readonly use_case?: string;
  readonly is_baseline?: boolean;
  /** The whole organization's when absent: published clients look for a name in one answer. */
  readonly limit?: number;
  readonly offset: number;
}

export class ModelStore {
  readonly #database: Database;
  /** Nearly every request about a model begins with this. */
  readonly #byId: GatheredReads<string, Model>;

  constructor(database: Database) {
    this.#database = database;
    this.#byId = new GatheredReads(
      (id) => id,
      async (ids) => {
        const rows = await database.kysely
          .selectFrom('models')
          .selectAll()
          .where(sql<boolean>`id = any(${ids}::text[])`)
          .where('deleted_at', 'is', null)
          .execute();
        return new Map(rows.map((row) => [row.id, row]));
      },
    );
  }

  /** @throws OctomilError `conflict` with the id of the model that has the name, in any case of letters */
  async create(organizationId: string, fields: ModelFields, transaction?: Kysely<Tables>): Promise<Model> {
    const created = await this.#insert(organizationId, fields, transaction);
    if (created !== undefined) return created;
    const existing = await this.#byName(organizationId, fields.name, transaction);
    throw new OctomilError('conflict', `there is a model named "${existing?.name ?? fields.name}" already`, {
      details: { model_id: existing?.id ?? null },
    });
  }

  /** The model of this name, made when there is none. Any number of callers get the same one. */
  async ensure(organizationId: string, fields: ModelFields): Promise<{ model: Model; created: boolean }> {
    for (let attempt = 1; attempt <= 3; attempt++) {
      const existing = await this.#byName(organizationId, fields.name);
      if (existing !== undefined) return { model: existing, created: false };
      const created = await this.#insert(organizationId, fields);
      if (created !== undefined) return { model: created, created: true };
    }
    throw new OctomilError('conflict', `model "${fields.name}" is being created and deleted at the same time`);
  }

  async list(organizationId: string, filter: ModelFilter): Promise<{ models: Model[]; total: number }> {
    let query = this.#database.kysely
      .selectFrom('models')
      .where('organization_id', '=', organizationId)
      .where('deleted_at', 'is', null);
    if (filter.framework !== undefined) query = query.where('framework', '=', filter.framework);
    if (filter.use_case !== undefined) query = query.where('use_case', '=', filter.use_case);
    if (filter.is_baseline !== undefined) query = query.where('is_baseline', '=', filter.is_baseline);
    const counted = query.select((e) => e.fn.countAll<number>().as('total'));
    let page = query
      .selectAll()
      .select(counted.as('total'))
      .orderBy('created_at', 'desc')
      .orderBy('id')
      .offset(filter.offset);
    if (filter.limit !== undefined) page = page.limit(filter.limit);
    const rows = await page.execute();
    // Past the end no row says how many there are.
    const total = rows[0]?.total ?? (await counted.executeTakeFirstOrThrow()).total;
    return { models: rows.map(({ total: _, ...model }) => model), total };
  }

  /** The organization's own, by id, or by name in any case of letters. */
  async find(organizationId: string, idOrName: string): Promise<Model | undefined> {
    const byId = await this.#byId.get(idOrName);
    if (byId?.organization_id === organizationId) return byId;
    return this.#byName(organizationId, idOrName);
  }

  /** To be changed by the organization. @throws OctomilError `model_not_found`, `forbidden` for what another member shares */
  async get(organizationId: string, idOrName: string): Promise<Model> {
    const model = await this.getReadable(organizationId, idOrName);
    if (model.organization_id === organizationId) return model;
    throw new OctomilError(
      'forbidden',
      `model "${model.name}" is another organization's, which shares it with a federation to be read; only its owner may do this`,
      { details: { model_id: model.id } },
    );
  }

  /**
   * To be read: the organization's own, or one that a federation it belongs to shares, by id or name.
   *
   * @throws OctomilError `model_not_found`
   */
  async getReadable(organizationId: string, idOrName: string): Promise<Model> {
    const own = await this.find(organizationId, idOrName);
    if (own !== undefined) return own;
    const shared = await this.#database.kysely
      .selectFrom('models as m')
      .innerJoin('federation_models as s', 's.model_id', 'm.id')
      .innerJoin('federation_members as f', 'f.federation_id', 's.federation_id')
      .selectAll('m')
      .where('f.organization_id', '=', organizationId)
      .where('f.status', '=', 'active')
      .where('m.deleted_at', 'is', null)
      .where((e) => e.or([e('m.id', '=', idOrName), e(e.fn<string>('lower', ['m.name']), '=', lower(idOrName))]))
      .orderBy('m.created_at')
      .limit(1)
      .executeTakeFirst();
    if (shared === undefined) throw noModel(idOrName);
    return shared;
  }

  /** @throws OctomilError `conflict` when the new name is taken */
  async update(model: Model, fields: Partial<ModelFields>, transaction?: Kysely<Tables>): Promise<Model> {
    const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
    if (Object.keys(given).length === 0) return model;
    try {
      return await (transaction ?? this.#database.kysely)
        .updateTable('models')
        .set(given)
        .where('id', '=', model.id)
        .returningAll()
        .executeTakeFirstOrThrow();
    } catch (error) {
      if (violatedUnique(error) === undefined) throw error;
      throw new OctomilError('conflict', `there is a model named "${fields.name}" already`, { cause: error });
    }
  }

  #byName(organizationId: string, name: string, handle = this.#database.kysely): Promise<Model | undefined> {
    return handle
      .selectFrom('models')
      .selectAll()
      .where('organization_id', '=', organizationId)
      .where((e) => e(e.fn<string>('lower', ['name']), '=', lower(name)))
      .where('deleted_at', 'is', null)
      .executeTakeFirst();
  }

  /** `undefined` when the name is taken. */
  #insert(organizationId: string, fields: ModelFields, handle = this.#database.kysely): Promise<Model | undefined> {
    return handle
      .insertInto('models')
      .values({
        id: randomUUID(),
        organization_id: organizationId,
        name: fields.name,
        framework: fields.framework ?? null,
        framework_version: fields.framework_version ?? null,
        use_case: fields.use_case ?? null,
        description: fields.description ?? '',
        is_baseline: fields.is_baseline ?? false,
        target: null,
      })
      .onConflict((conflict) => conflict.doNothing())
      .returningAll()
      .executeTakeFirst();
  }
}

/** In the database, whose letters the index is over. */
function lower(text: string): RawBuilder<string> {
  return sql<string>`lower(${text}::text)`;
}

export function noModel(idOrName: string): OctomilError {
  return new OctomilError('model_not_found', `there is no model "${idOrName.slice(0, 200)}" in this organization`);
}
