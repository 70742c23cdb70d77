export { type App, type AppOptions, createApp } from './app.js';
export { discardRest } from './discard-rest.js';
export { errorBody } from './error-answer.js';
export { type HealthChecks, registerHealthRoutes } from './health-routes.js';
export { IdempotencyStore, IdempotencySweeper, registerIdempotency } from './idempotency/index.js';
export { listen } from './listen.js';
export {
  type Authenticator,
  bearerOf,
  covers,
  type DevicePrincipal,
  type KeyPrincipal,
  type Principal,
  requireDevice,
  requireScope,
  requireTokenScope,
  SCOPES,
  type Scope,
} from './principal.js';
export { RateLimits } from './rate-limit.js';
export { commitChange } from './recorded-change.js';
export { openRedisCounts } from './redis-counts.js';
export { SharedCounts } from './shared-counts.js';
