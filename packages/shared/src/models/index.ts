export {
  ACTIVATIONS,
  type Activation,
  ARCHITECTURE_NAMES,
  type Architecture,
  ArchitectureSchema,
  type Output,
  outputWidth,
  parseArchitecture,
} from './architecture.js';
export type { ModelDocument } from './document.js';
