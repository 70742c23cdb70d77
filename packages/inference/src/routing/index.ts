export { type Complexity, type Contribution, scoreComplexity } from './complexity.js';
export { decompose, type SubTask } from './decompose.js';
export { checkDeterministic, type DeterministicResult } from './deterministic.js';
export type { RoutedMessage } from './messages.js';
export { DEFAULT_POLICY, parseRoutingPolicy, type RoutingPolicy } from './policy.js';
export { RoutingPolicyClient, type RoutingPolicyClientOptions } from './policy-client.js';
export { type DecomposedDecision, QueryRouter, type QueryRouterOptions, type RoutingDecision } from './query-router.js';
export { assignTiers, type ModelInfo, TIERS, type Tier } from './tiers.js';
