export { isNamed } from './name-pattern.js';
