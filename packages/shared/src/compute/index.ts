export {
  BACKEND_NAMES,
  type BackendAttempt,
  type BackendName,
  type BackendOptions,
  type ComputeBackend,
  parseBackendOrder,
  selectBackend,
} from './backend-choice.js';
export {
  createFoldKernel,
  type FoldKernel,
  type FoldKernelOptions,
  firstNonFinite,
  kernelMemoryBytes,
  type VectorMeasure,
} from './fold-kernel.js';
