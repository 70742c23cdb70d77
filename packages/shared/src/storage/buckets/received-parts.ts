import { OctomilError } from '../../errors/index.js';
import type { ReceivedPart } from './bucket-client.js';

/**
 * That all parts of an upload have arrived.
 *
 * @throws OctomilError `transfer_incomplete` naming the missing parts, or both sizes where they differ
 */
export function requireParts(parts: readonly ReceivedPart[], partCount: number, totalBytes: number): void {
  const received = new Set(parts.map(({ number }) => number));
  const missing = Array.from({ length: partCount }, (_, number) => number).filter((number) => !received.has(number));
  if (missing.length > 0) {
    const shown = missing.slice(0, 20).join(', ');
    throw new OctomilError(
      'transfer_incomplete',
      `parts ${shown} have not arrived (${missing.length} of ${partCount}); send them`,
      {
        details: { missingParts: missing.slice(0, 1000) },
      },
    );
  }
  const bytes = parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (bytes !== totalBytes || parts.length !== partCount) {
    throw new OctomilError(
      'transfer_incomplete',
      `the ${parts.length} parts have ${bytes} bytes, and ${totalBytes} in ${partCount} parts were announced; send them again`,
      { details: { receivedBytes: bytes, expectedBytes: totalBytes } },
    );
  }
}
