// Writes docs/reference/errors.md from the one code table, so that every code has an address.
import { mkdirSync, writeFileSync } from 'node:fs';

// Node strips the types; a static import would have to name a built file.
const { ERROR_CODES, GRPC } = await import(new URL('../packages/shared/src/errors/codes.ts', import.meta.url).href);

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
