// For tests of other packages: models small enough to be made on the spot.
export { hasLlama } from './has-llama.js';
export { makeTinyGguf, type TinyGgufOptions } from './tiny-gguf.js';
