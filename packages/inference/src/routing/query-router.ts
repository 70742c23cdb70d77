import { OctomilError } from '@octomil/shared/errors';
import { type Contribution, SCANNED_CHARACTERS, scoreComplexity } from './complexity.js';
import { decompose, type SubTask } from './decompose.js';
import { checkDeterministic, type DeterministicResult } from './deterministic.js';
import { type Query, type RoutedMessage, readQuery } from './messages.js';
import { DEFAULT_POLICY, type RoutingPolicy } from './policy.js';
import { type ModelInfo, TIERS, type Tier } from './tiers.js';

export interface QueryRouterOptions {
  readonly strategy?: 'complexity';
  /** Scores below the first go to the fast tier, from the second on to the quality tier. Default [0.3, 0.7]. */
  readonly thresholds?: readonly [number, number];
  /** Answers arithmetic and conversions without a model. Default true. */
  readonly enableDeterministic?: boolean;
  /** Asked at every decision; its thresholds hold where `thresholds` is not given. */
  readonly policy?: () => RoutingPolicy;
}

export interface RoutingDecision {
  /** Empty when no model is needed: see `deterministicResult`. */
  readonly modelName: string;
  /** 0 to 1. */
  readonly complexityScore: number;
  readonly tier: Tier | 'deterministic';
  readonly strategy: 'complexity';
  /** Models to try when this one fails, in order. */
  readonly fallbackChain: readonly string[];
  /** What the score is made of, strongest first. */
  readonly contributions: readonly Contribution[];
  /** Rules that bounded the score, in words. */
  readonly rules: readonly string[];
  readonly deterministicResult: DeterministicResult | undefined;
}

export interface DecomposedDecision {
  readonly tasks: readonly SubTask[];
  /** One for each task. */
  readonly subDecisions: readonly RoutingDecision[];
}

/**
 * Sends each query to the smallest model that should do.
 *
 * ```ts
 * const router = new QueryRouter(assignTiers(['smollm-360m', 'phi-4-mini', 'llama-3.2-3b']));
 * const { modelName, fallbackChain } = router.route([{ role: 'user', content: 'Write a REST API in Python' }]);
 * ```
 */
export class QueryRouter {
  readonly #models: readonly ModelInfo[];
  readonly #options: QueryRouterOptions;

  /** @throws OctomilError `invalid_input` without a model, or with thresholds that are no ascending ratios */
  constructor(models: Readonly<Record<string, ModelInfo>> | readonly ModelInfo[], options: QueryRouterOptions = {}) {
    this.#models = Array.isArray(models) ? [...(models as readonly ModelInfo[])] : Object.values(models);
    this.#options = options;
    if (this.#models.length === 0) throw new OctomilError('invalid_input', 'a router needs at least one model');
    const [low, high] = options.thresholds ?? [0.3, 0.7];
    if (!(low >= 0 && low <= high && high <= 1)) {
      throw new OctomilError(
        'invalid_input',
        `thresholds are [${low}, ${high}]; they must be ratios from 0 to 1, the lower one first`,
        { details: { field: 'thresholds' } },
      );
    }
  }

  /** @param messages a conversation, whose last user turn counts, or the question alone */
  route(messages: string | readonly RoutedMessage[]): RoutingDecision {
    return this.#decide(readQuery(messages));
  }

  /** As `route`, for each task of a query that holds several; a query with one task is decided whole. */
  routeDecomposed(messages: string | readonly RoutedMessage[]): RoutingDecision | DecomposedDecision {
    const query = readQuery(messages);
    const tasks = decompose(query.text);
    if (tasks.length < 2) return this.#decide(query);
    return { tasks, subDecisions: tasks.map(({ text }) => this.#decide({ ...query, text })) };
  }

  /**
   * The next model to try when this one fails: of the next larger tier, else of its own, else of the nearest smaller one.
   * Undefined when it is the only one, or unknown.
   */
  getFallback(modelName: string): string | undefined {
    const model = this.#models.find(({ name }) => name === modelName);
    return model === undefined ? undefined : this.#chain(model)[0]?.name;
  }

  #decide(query: Query): RoutingDecision {
    const policy = this.#options.policy?.() ?? DEFAULT_POLICY;
    const { enableDeterministic = true } = this.#options;
    const deterministicResult =
      enableDeterministic && policy.deterministicEnabled ? checkDeterministic(query.text) : null;
    if (deterministicResult !== null) {
      return {
        modelName: '',
        complexityScore: 0,
        tier: 'deterministic',
        strategy: 'complexity',
        fallbackChain: [],
        contributions: [],
        rules: [`answered by ${deterministicResult.method}`],
        deterministicResult,
      };
    }
    const { score, contributions, rules } = this.#score(query, policy);
    const [low, high] = this.#options.thresholds ?? [policy.fastThreshold, policy.qualityThreshold];
    const wanted: Tier = score < low ? 'fast' : score >= high ? 'quality' : 'balanced';
    const model = this.#pick(wanted);
    return {
      modelName: model.name,
      complexityScore: score,
      tier: model.tier,
      strategy: 'complexity',
      fallbackChain: this.#chain(model).map(({ name }) => name),
      contributions,
      rules: model.tier === wanted ? rules : [...rules, `there is no model of the tier ${wanted}`],
      deterministicResult: undefined,
    };
  }

  #score(query: Query, policy: RoutingPolicy): ReturnType<typeof scoreComplexity> {
    const scored = scoreComplexity(query);
    const text = query.text.slice(0, SCANNED_CHARACTERS).toLowerCase();
    const named = policy.complexIndicators.filter((word) => word !== '' && text.includes(word.toLowerCase()));
    if (named.length === 0 || scored.score >= policy.qualityThreshold) return scored;
    return {
      ...scored,
      score: policy.qualityThreshold,
      rules: [...scored.rules, `the policy calls ${named.slice(0, 3).join(', ')} complex`],
    };
  }

  /** Of the tier, else the next larger, else the nearest smaller. */
  #pick(tier: Tier): ModelInfo {
    const order = [...TIERS.slice(TIERS.indexOf(tier)), ...TIERS.slice(0, TIERS.indexOf(tier)).reverse()];
    for (const candidate of order) {
      const [best] = this.#ofTier(candidate);
      if (best !== undefined) return best;
    }
    throw new OctomilError('internal', 'a router has no model');
  }

  #chain(model: ModelInfo): ModelInfo[] {
    const at = TIERS.indexOf(model.tier);
    const order = [...TIERS.slice(at + 1), model.tier, ...TIERS.slice(0, at).reverse()];
    return order.flatMap((tier) => this.#ofTier(tier)).filter(({ name }) => name !== model.name);
  }

  /** Those in memory first, then the smaller ones; otherwise as they were listed. */
  #ofTier(tier: Tier): ModelInfo[] {
    return this.#models
      .filter((model) => model.tier === tier)
      .sort((a, b) => Number(b.loaded ?? false) - Number(a.loaded ?? false) || (a.paramB ?? 0) - (b.paramB ?? 0));
  }
}
