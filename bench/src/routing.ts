import { performance } from 'node:perf_hooks';
import { type ModelInfo, QueryRouter, TIERS } from '@octomil/inference/routing';
import { type BenchmarkResult, percentile } from './result.js';
import { DEVELOPMENT_QUERIES, HELD_OUT_QUERIES, type LabelledQuery } from './routing-queries.js';

/** Billions of parameters, which is what a token costs. */
const MODELS: readonly (ModelInfo & { readonly paramB: number })[] = [
  { name: 'smollm-360m', tier: 'fast', paramB: 0.36 },
  { name: 'phi-4-mini', tier: 'balanced', paramB: 3.8 },
  { name: 'llama-3.1-8b', tier: 'quality', paramB: 8 },
];

/** How often the router picks the tier that a person would, what that saves, and how long it takes for a 1 kB query. */
export async function routingBench(runs: number): Promise<BenchmarkResult> {
  const router = new QueryRouter(MODELS);
  const all = [...DEVELOPMENT_QUERIES, ...HELD_OUT_QUERIES];
  const longQuery = all
    .map(({ text }) => text)
    .join(' ')
    .slice(0, 1024);
  const micros: number[] = [];
  for (let run = 0; run < runs; run += 1) {
    const startedAt = performance.now();
    router.route(longQuery);
    micros.push((performance.now() - startedAt) * 1000);
  }
  return {
    developmentAccuracy: accuracy(router, DEVELOPMENT_QUERIES),
    heldOutAccuracy: accuracy(router, HELD_OUT_QUERIES),
    heldOutQueries: HELD_OUT_QUERIES.length,
    twoTierMistakes: all.filter((query) => distance(router, query) > 1).length,
    costAgainstAlwaysLarge: cost(router, all) / (8 * all.length),
    oneKilobyteP50Micros: percentile(micros, 0.5),
    oneKilobyteP99Micros: percentile(micros, 0.99),
  };
}

function accuracy(router: QueryRouter, queries: readonly LabelledQuery[]): number {
  return queries.filter((query) => distance(router, query) === 0).length / queries.length;
}

/** Tiers between what was chosen and what was right. */
function distance(router: QueryRouter, { text, tier }: LabelledQuery): number {
  const chosen = router.route(text).tier;
  // A deterministic answer is right by itself.
  return chosen === 'deterministic' ? 0 : Math.abs(TIERS.indexOf(chosen) - TIERS.indexOf(tier));
}

function cost(router: QueryRouter, queries: readonly LabelledQuery[]): number {
  return queries.reduce((sum, { text }) => {
    const { modelName } = router.route(text);
    return sum + (MODELS.find(({ name }) => name === modelName)?.paramB ?? 0);
  }, 0);
}
