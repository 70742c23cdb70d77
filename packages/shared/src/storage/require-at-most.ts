import { OctomilError } from '../errors/index.js';

/** @throws OctomilError `too_large` for an object beyond `maxBytes` */
export function requireAtMost(maxBytes: number, key: string, sizeBytes: number): void {
  if (sizeBytes <= maxBytes) return;
  throw new OctomilError('too_large', `object ${key} has ${sizeBytes} bytes, more than the ${maxBytes} allowed here`);
}
