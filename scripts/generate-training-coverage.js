// Writes docs/training-coverage.md: every layer, optimizer and loss of tfjs, and the kernels it trains with on wasm.
//
//   node -C source --import ./scripts/source-hook.js scripts/generate-training-coverage.js
import { writeFileSync } from 'node:fs';

// Node strips the types; a static import would have to name a built file.
const source = (path) => import(new URL(`../packages/shared/src/compute/${path}`, import.meta.url).href);
const { selectBackend } = await source('backend-choice.ts');
const { renderTrainingCoverage } = await source('training-coverage/coverage-table.ts');

const backend = await selectBackend({ order: ['wasm'] });
writeFileSync('docs/training-coverage.md', await renderTrainingCoverage(backend.tf, backend.layers));
backend.dispose();
