export type { Comparison, Scores } from './demo/comparison.js';
export { type DemoOptions, type DemoResult, type DemoRound, runDemo } from './demo/demo.js';
export { type SiteFile, writeGeneratedSites } from './demo/site-files.js';
export {
  type Fleet,
  type FleetAgent,
  type FleetAgentOptions,
  type FleetOptions,
  GENERATED_TARGET,
  startFleet,
} from './fleet/fleet.js';
