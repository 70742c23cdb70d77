import type { JsonObject } from '../database/tables.js';
import type { OpenDevice, OpenStore } from './open-store.js';
import type { RoundFacts, RoundFactsReader } from './round-facts.js';
import type { Caller } from './session-service.js';
import { roundNotFound } from './session-service.js';

/** What clients read about rounds of open admission. */
export class OpenRounds {
  readonly #store: OpenStore;
  readonly #facts: RoundFactsReader;

  constructor({ store, facts }: { store: OpenStore; facts: RoundFactsReader }) {
    this.#store = store;
    this.#facts = facts;
  }

  /** Rounds that a device could answer now. */
  async of(device: OpenDevice): Promise<JsonObject[]> {
    const views: JsonObject[] = [];
    for (const id of await this.#store.roundsFor(device)) {
      const view = await this.#view(id);
      if (view?.['status'] === 'active') views.push(view);
    }
    return views;
  }

  /** @throws `not_found` also for rounds of federations that the caller is not in */
  async status(roundId: string, caller: Pick<Caller, 'organizationId'>): Promise<JsonObject> {
    const facts = await this.#facts.of(roundId);
    const visible = facts !== undefined && (await this.#store.mayTakePart(facts, caller.organizationId));
    const view = visible ? await this.#view(roundId) : undefined;
    if (view === undefined) throw roundNotFound(roundId);
    return view;
  }

  async #view(roundId: string): Promise<JsonObject | undefined> {
    const facts = await this.#facts.of(roundId);
    const row = await this.#store.round(roundId);
    if (facts === undefined || row === undefined) return undefined;
    return {
      round_id: row.roundId,
      session_id: row.sessionId,
      number: row.number,
      status: row.state === 'collecting' ? 'active' : row.state,
      model_id: facts.model.id,
      model: facts.model.name,
      version: row.version,
      participants: row.accepted,
      target_participants: row.minUpdates,
      admission: facts.config.admission ?? 'assigned',
      config: clientConfig(facts, row.version),
    };
  }
}

/** The keys that published clients read, and what ours needs besides. */
function clientConfig({ model, config }: RoundFacts, version: string | null): JsonObject {
  const rules = config.clientRules;
  return {
    model_id: model.id,
    version,
    proximal_mu: rules?.proximalMu ?? 0,
    clip_norm: rules?.clipNormL2 ?? null,
    filters: rules?.filters ?? [],
    secure_aggregation: false,
    update_format: config.updateFormat,
    local: config.local,
  };
}
