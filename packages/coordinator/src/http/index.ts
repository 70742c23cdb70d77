export { type App, type AppOptions, createApp } from './app.js';
export { discardRest } from './discard-rest.js';
export { errorBody } from './error-answer.js';
export { type HealthChecks, registerHealthRoutes } from './health-routes.js';
export { listen } from './listen.js';
export {
  type Authenticator,
  type DevicePrincipal,
  type KeyPrincipal,
  type Principal,
  requireDevice,
  requireScope,
  SCOPES,
  type Scope,
} from './principal.js';
