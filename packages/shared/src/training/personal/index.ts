export { loadPersonalModel, type PersonalModel } from './load-personal.js';
export {
  type KeptPersonal,
  listPersonal,
  type PersonalLimit,
  type PersonalListing,
  type PersonalPlace,
  type PersonalRecord,
  type PersonalState,
  readPersonalRecord,
  removePersonal,
} from './personal-folder.js';
export {
  checkPersonalization,
  DEFAULT_DITTO_LAMBDA,
  PERSONALIZATION_METHODS,
  type Personalization,
  parsePersonalization,
} from './personalization.js';
