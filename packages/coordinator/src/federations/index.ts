export {
  type Federation,
  type FederationMember,
  Federations,
  type Membership,
  type SharedModel,
} from './federations.js';
export { type FederationRoutesOptions, registerFederationRoutes } from './routes.js';
