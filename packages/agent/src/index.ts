export { type Agent, type AgentOverrides, startAgent } from './agent.js';
export { isLoopback, type PeerAddress, parseCoordinatorAddress } from './config/address.js';
export { type AgentConfig, redactedConfig, type TlsSettings } from './config/agent-config.js';
export { type LoadOptions, loadAgentConfig, parseAgentConfig } from './config/load-config.js';
export type { ProxySettings } from './config/proxy.js';
export type { DataSetSummary, Summarize } from './data-sets/summary.js';
export { type RunAgentOptions, runAgent } from './main.js';
export type { Policy, PolicyRule } from './policy/policy.js';
export { AGENT_VERSION } from './version.js';
