// Writes docs/reference/errors.md from the one code table, so that every code has an address.
import { mkdirSync, writeFileSync } from 'node:fs';
import { ERROR_CODES, GRPC } from '../packages/shared/src/errors/codes.js';

const grpcName = (status) => Object.keys(GRPC).find((name) => GRPC[name] === status);
const rows = Object.entries(ERROR_CODES).map(
  ([code, entry]) =>
    `| <a id="${code}"></a>\`${code}\` | ${entry.http} | ${grpcName(entry.grpc)} | ${entry.category} | ${entry.retry} |`,
);
mkdirSync('docs/reference', { recursive: true });
writeFileSync(
  'docs/reference/errors.md',
  `# Error codes

Generated from \`packages/shared/src/errors/codes.ts\`; do not edit. A retry class of \`conditional\` means: after mending, or waiting for, what the message names.

| code | HTTP | gRPC | category | retry |
|---|---|---|---|---|
${rows.join('\n')}
`,
);
