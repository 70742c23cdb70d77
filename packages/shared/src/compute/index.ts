export {
  BACKEND_NAMES,
  type BackendAttempt,
  type BackendName,
  type BackendOptions,
  type ComputeBackend,
  parseBackendOrder,
  selectBackend,
} from './backend-choice.js';
