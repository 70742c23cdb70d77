export { type Federation, type FederationMember, Federations } from './federations.js';
export { registerFederationRoutes } from './routes.js';
