export { ProposalService } from './proposal-service.js';
export { type Proposal, ProposalStore } from './proposal-store.js';
export { type FeatureRoutesOptions, registerFeatureRoutes } from './routes.js';
