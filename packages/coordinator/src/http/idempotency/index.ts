export { keepsAnswer, registerIdempotency } from './idempotency-hook.js';
export { IdempotencyStore } from './idempotency-store.js';
export { IdempotencySweeper } from './idempotency-sweeper.js';
