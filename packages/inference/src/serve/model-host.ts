import { OctomilError } from '@octomil/shared/errors';
import { nearNames } from '../gateway/near-names.js';
import {
  assignTiers,
  type ModelInfo,
  QueryRouter,
  type RoutingDecision,
  type RoutingPolicy,
} from '../routing/index.js';
import type { RoutedMessage } from '../routing/messages.js';
import type { ServedModel } from './served-model.js';

/** The name under which requests leave the choice of the model to the router. */
export const AUTO = 'auto';

/** What a request is to be answered with: models to try in order, or an answer that needs none. */
export interface Route {
  readonly models: readonly [ServedModel, ...ServedModel[]];
  /** Undefined when the request named its model. */
  readonly decision: RoutingDecision | undefined;
}

/** The models of a server, by name. */
export class ModelHost {
  readonly #models: ReadonlyMap<string, ServedModel>;
  readonly #thresholds: readonly [number, number] | undefined;
  readonly #policy: (() => RoutingPolicy) | undefined;
  readonly routed = new Map<string, number>();
  fallbacks = 0;

  constructor(
    models: readonly ServedModel[],
    options: { readonly thresholds?: readonly [number, number]; readonly policy?: () => RoutingPolicy } = {},
  ) {
    this.#models = new Map(models.map((model) => [model.name, model]));
    this.#thresholds = options.thresholds;
    this.#policy = options.policy;
  }

  get all(): readonly ServedModel[] {
    return [...this.#models.values()];
  }

  /** @throws OctomilError `model_not_found`, with the names most like it */
  get(name: string): ServedModel {
    const model = this.#models.get(name);
    if (model !== undefined) return model;
    const names = [...this.#models.keys()];
    const near = nearNames(name, names);
    if (names.length === 0) {
      throw new OctomilError('model_not_found', 'no model that generates is served here; start the server with one', {
        details: { field: 'model' },
      });
    }
    const help = near.length > 0 ? `did you mean ${near.join(' or ')}?` : `there are ${names.slice(0, 10).join(', ')}`;
    throw new OctomilError('model_not_found', `the model "${name.slice(0, 200)}" is not served here; ${help}`, {
      details: { field: 'model', near },
    });
  }

  /**
   * @param allowDeterministic whether sums and conversions may be answered without a model
   * @throws OctomilError `model_not_found`
   */
  route(name: string, messages: readonly RoutedMessage[], allowDeterministic: boolean): Route {
    if (name !== AUTO || this.#models.has(AUTO) || this.#models.size === 0) {
      return { models: [this.get(name)], decision: undefined };
    }
    const infos = this.#infos();
    const routerOf = (enableDeterministic: boolean): QueryRouter =>
      new QueryRouter(infos, {
        enableDeterministic,
        ...(this.#thresholds === undefined ? {} : { thresholds: this.#thresholds }),
        ...(this.#policy === undefined ? {} : { policy: this.#policy }),
      });
    const decision = routerOf(allowDeterministic).route(messages);
    const { modelName, fallbackChain } =
      decision.deterministicResult === undefined ? decision : routerOf(false).route(messages);
    return { models: [this.get(modelName), ...fallbackChain.map((next) => this.get(next))], decision };
  }

  async stop(): Promise<void> {
    await Promise.all(this.all.map((model) => model.stop()));
  }

  #infos(): ModelInfo[] {
    const byPlace = assignTiers([...this.#models.keys()]);
    return this.all.map(({ name, source, isLoaded }) => ({
      name,
      tier: source.tier ?? byPlace[name]?.tier ?? 'balanced',
      ...(source.paramB === undefined ? {} : { paramB: source.paramB }),
      loaded: isLoaded,
    }));
  }
}
