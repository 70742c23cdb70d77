export { type CodeFile, type CodeListing, notAllowed, readCode } from './code-files.js';
export { removeLeftRuns } from './left-runs.js';
export {
  DEFAULT_OWN_CODE_LIMITS,
  type OwnCode,
  type OwnCodeLimits,
  TRAINER_NAME_PATTERN,
} from './own-code.js';
export type { OwnModuleInput, OwnModuleResult, OwnModuleTrain } from './own-module.js';
